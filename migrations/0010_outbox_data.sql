-- Letters without a user, such as an invitation, and letters with data of their own. The data is no
-- secret: a link is made when its letter is sent.
--
-- Beside the release before: it queues and claims as it did, for it names its columns and lists its
-- own kinds, and leaves every other kind alone.

alter table outbox
    alter column user_id drop not null,
    add column data jsonb not null default '{}',
    -- The kinds are listed in the code: a worker claims those that it knows.
    drop constraint outbox_kind_check,
    -- The release before joins users only after it has picked a row: one of its own kinds without a
    -- user would be picked again and again, and hold up all others. Not validated, so that the table
    -- is not read under its lock: until now no row could be without a user.
    add constraint outbox_user_id_check
        check (user_id is not null or kind not in ('confirmation', 'email_change_notice')) not valid;
