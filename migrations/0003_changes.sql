-- Tells whoever listens which user has changed, or has a session that did: the session cache of each instance forgets
-- them. By triggers, so that it does not matter who makes the change.
--
-- A commit that notifies waits for every other one that does, so nothing notifies that nobody has to hear of: not a new
-- user or session, and not a refresh, which only makes a session last longer.

create function notify_user_changed() returns trigger language plpgsql as $$
begin
    perform pg_notify('doorward_changes', old.id::text);
    return null;
end
$$;

create function notify_session_changed() returns trigger language plpgsql as $$
begin
    perform pg_notify('doorward_changes', old.user_id::text);
    return null;
end
$$;

-- An empty payload: anybody may have changed.
create function notify_all_changed() returns trigger language plpgsql as $$
begin
    perform pg_notify('doorward_changes', '');
    return null;
end
$$;

create trigger users_notify_update after update on users
    for each row when (old.* is distinct from new.*) execute function notify_user_changed();
create trigger users_notify_delete after delete on users
    for each row execute function notify_user_changed();
create trigger users_notify_truncate after truncate on users
    for each statement execute function notify_all_changed();

create trigger sessions_notify_update after update on sessions
    for each row when (
        (old.id, old.user_id, old.ended_at) is distinct from (new.id, new.user_id, new.ended_at)
        or new.expires_at < old.expires_at
    ) execute function notify_session_changed();
-- Not of what has ended or run out long ago, which is what is tidied away; a day, because clocks differ.
create trigger sessions_notify_delete after delete on sessions
    for each row when (old.ended_at is null and old.expires_at > now() - interval '1 day')
    execute function notify_session_changed();
create trigger sessions_notify_truncate after truncate on sessions
    for each statement execute function notify_all_changed();
