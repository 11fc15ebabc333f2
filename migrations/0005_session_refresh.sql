-- Old sessions are found by ends_at, which never changes: the next migration says why.
create index sessions_ends_at_idx on sessions (ends_at);
