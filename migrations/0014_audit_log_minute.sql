-- By itself: while the index is made, which reads the whole log, others may read it but not write.
create unique index audit_log_minute_idx on audit_log (user_id, event, ip, minute)
    where minute is not null;
