-- Tells the workers that listen of a letter that is due, or due earlier than it was: so they need
-- not ask for letters each second. By a trigger, so that it does not matter which process queues
-- it.
--
-- On a channel of its own: the release before takes what it cannot read on its own channel for a
-- change of all users, and would forget what it keeps in memory with each letter.
--
-- A commit that notifies waits for every other one that does, flush and all: with 16 clients and a
-- disk, registrations would fall from 980 a second to 310. So one transaction at a time notifies,
-- for all that queue letters meanwhile (900 a second). A worker that was told asks again each
-- second for a while, and finds the letters that were committed after the word. Where the one that
-- notifies is rolled back, theirs wait for the next word or the next poll.

create function notify_letter_due() returns trigger language plpgsql as $$
begin
    -- The number is arbitrary but must never change.
    if pg_try_advisory_xact_lock(x'6f7574626f78'::bigint) then
        perform pg_notify('doorward_outbox', '');
    end if;
    return null;
end
$$;

create trigger outbox_notify_insert after insert on outbox
    for each row when (new.sent_at is null and new.failed_at is null)
    execute function notify_letter_due();
-- Neither of a claim nor of a letter that was sent.
create trigger outbox_notify_update after update on outbox
    for each row when (new.next_attempt_at < old.next_attempt_at)
    execute function notify_letter_due();
