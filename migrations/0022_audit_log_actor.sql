-- A page of what somebody did to others: a handful of admins. What people do to their own accounts stands under
-- user_id, and costs nothing here.
create index audit_log_actor_id_idx on audit_log (actor_id, id)
    where actor_id is not null and actor_id is distinct from user_id;
