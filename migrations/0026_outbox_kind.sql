-- A page of letters of one kind, however rare the kind.
create index outbox_kind_idx on outbox (kind, created_at, id);
