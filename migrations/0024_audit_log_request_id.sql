-- What one request did, by the id that is in its answer and in the log.
create index audit_log_request_id_idx on audit_log (request_id) where request_id is not null;
