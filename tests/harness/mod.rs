//! What tests share: the service and its persons, the real binary, and the servers that stand
//! around it.

pub mod answer;
pub mod app;
pub mod balancer;
pub mod cluster;
pub mod dice;
pub mod forge;
pub mod home;
pub mod http_call;
pub mod machine;
pub mod markdown;
pub mod marks;
pub mod nginx;
pub mod person;
pub mod pgbouncer;
pub mod postfix;
pub mod postgres;
pub mod process;
pub mod races;
pub mod scrape;
pub mod smtp_sink;
pub mod tcp_proxy;
pub mod wait;
