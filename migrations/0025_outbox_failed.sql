-- A page of letters that were given up: few among many. Those that wait are found by outbox_due_idx.
create index outbox_failed_idx on outbox (created_at, id) where failed_at is not null;
