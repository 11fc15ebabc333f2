//! Connections and statements, with a pooler, a standby and a fail-over.

mod failover;
mod failover_people;
mod forgotten;
mod one_statement;
mod pool;
mod pooler;
mod route;
mod standby;
