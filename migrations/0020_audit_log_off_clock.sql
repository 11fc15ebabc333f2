-- Nearly empty: what a search for a span of time would miss between two ids. By itself, as are those that
-- follow: while an index is made, which reads the whole log, others may read it but not write.
create index audit_log_off_clock_idx on audit_log (at) where off_clock;
