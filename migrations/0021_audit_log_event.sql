-- A page of one kind of events, however rare the kind. Rows of one kind come in the order of their ids, so each
-- is written to the end of its kind's.
create index audit_log_event_idx on audit_log (event, id);
