-- AUDIT_LOG_DAYS: old events are found by their time, whatever their ids. A clock that was wrong, or rows brought from
-- elsewhere, may have put them out of order.
create index audit_log_at_idx on audit_log (at);
