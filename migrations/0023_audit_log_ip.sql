-- A page of what came from one address.
create index audit_log_ip_idx on audit_log (ip, id);
