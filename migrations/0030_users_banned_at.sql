-- By itself, like the one before it.
create index users_banned_at_idx on users (banned_at, id) where banned_at is not null;
