-- By itself: while the index is made, which reads all users, others may read them but not write.
create index users_purge_at_idx on users (purge_at) where purge_at is not null;
