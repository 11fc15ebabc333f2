-- Of a session, how and when its user last proved who they are. Apart from what alters users: one
-- that waits for both tables would wait in a circle with requests that read them in the other order.

alter table sessions
    -- How (RFC 8176).
    add column amr              text[] not null default '{pwd}',
    -- When; null: at the login.
    add column authenticated_at timestamptz,
    -- A keyed hash of what the program calls itself, which proves nothing.
    add column device_hash      bytea;
