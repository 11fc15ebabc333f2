-- Whether somebody has logged in from an address before is asked at each login: of an account with 50,000 sessions all were
-- read for that. It serves what sessions_user_id_idx was for as well, which the next migration drops.
create index sessions_user_id_ip_idx on sessions (user_id, ip);
