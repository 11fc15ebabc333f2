//! What a fault happens to: a database, or a cluster of them, a mail server, one or more instances of the real binary,
//! and people.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustix::process::{Pid, Signal, kill_process};
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use tokio::task::JoinSet;

use crate::admins::{ADMINS, quarrel};
use crate::cluster::Cluster;
use crate::faults::{libfaketime, older_release};
use crate::harness::app::{PUBLIC_URL, SECRET_KEY};
use crate::harness::balancer::Balancer;
use crate::harness::home::Home;
use crate::harness::machine::{free_port, root};
use crate::harness::person::{PASSWORD, email_of};
use crate::harness::postgres::Postgres;
use crate::harness::process::Process;
use crate::harness::smtp_sink::{Kind, SmtpSink};
use crate::harness::tcp_proxy::{TcpProxy, Upstream};
use crate::load::Load;
use crate::server::SmallDisk;
use crate::virtual_user::VirtualUser;

const PEOPLE: usize = 5;
/// No answer may take longer.
const BOUND: Duration = Duration::from_secs(10);
/// How long an instance may take to be ready again after the fault is over.
const RECOVERY: Duration = Duration::from_secs(30);

/// How the people reach the instances.
#[derive(Clone, Copy, PartialEq)]
pub enum Doors {
    /// Each call goes to another instance.
    Direct,
    /// Through one that takes an instance for gone after so many seconds without an answer.
    Balancer { check: u32, call: u32 },
}

/// What is there already.
#[derive(Clone, Copy, PartialEq)]
pub enum Older {
    /// The database, one migration behind.
    Schema,
    /// The first instance, of an older release; the last one is still to come.
    Release,
}

/// What a fault needs; the rest as in [`Setup::PLAIN`].
#[derive(Clone)]
pub struct Setup {
    pub instances: usize,
    pub doors: Doors,
    /// A proxy stands between the service and its database.
    pub proxy: bool,
    /// The database's disk, or that of a cluster's first leader, of so many MB.
    pub small_disk: Option<usize>,
    /// Three nodes under Patroni in place of the one server.
    pub cluster: bool,
    /// People beside the usual ones who do no more than keep one session.
    pub phones: usize,
    /// How long people live before the fault.
    pub before: Duration,
    pub postgres: &'static [&'static str],
    pub mail: fn() -> Kind,
    /// For how long nobody could answer, because there was nobody.
    pub excused: Duration,
    /// The clock of the last instance can be set.
    pub faketime: bool,
    pub older: Option<Older>,
}

impl Setup {
    pub const PLAIN: Self = Self {
        instances: 1,
        doors: Doors::Direct,
        proxy: false,
        small_disk: None,
        cluster: false,
        phones: 0,
        before: Duration::from_secs(2),
        postgres: &[],
        mail: Kind::default,
        excused: Duration::ZERO,
        faketime: false,
        older: None,
    };
}

pub struct World {
    /// One of these two.
    pub postgres: Option<Postgres>,
    pub cluster: Option<Cluster>,
    /// After what lies on it, so that it is unmounted last.
    pub disk: Option<SmallDisk>,
    pub proxy: Option<TcpProxy>,
    pub sink: SmtpSink,
    pub homes: Vec<Home>,
    pub services: Vec<Option<Process>>,
    pub balancer: Option<Balancer>,
}

impl World {
    /// With nothing running yet but the database and the mail server.
    pub async fn build(setup: &Setup) -> Self {
        let disk = setup.small_disk.map(SmallDisk::mount);
        let (mut postgres, mut cluster) = (None, None);
        if setup.cluster {
            cluster = Some(Cluster::start(disk.as_ref()).await);
        } else {
            postgres = Some(match &disk {
                Some(disk) => Postgres::on_small_disk(disk).await,
                None => Postgres::for_service(setup.postgres).await,
            });
        }
        let mut proxy = None;
        let mut url = String::new();
        if let Some(postgres) = &postgres {
            let mut port = postgres.port;
            if setup.proxy {
                port = free_port();
                proxy = Some(TcpProxy::open_to(port, Upstream::Port(postgres.port)).await);
            }
            url = Postgres::url_through(port);
        }
        let sink = SmtpSink::of((setup.mail)()).await;
        let homes = homes(setup, &url, &sink, cluster.as_ref());
        if setup.older == Some(Older::Schema) {
            migrate_to_older_schema(postgres.as_ref().unwrap()).await;
        }
        let services = homes.iter().map(|_| None).collect();
        // What leads the people to the instances leads these to the leader.
        let balancer = cluster.as_ref().map(|cluster| cluster.balancer(&homes));
        Self { postgres, cluster, disk, proxy, sink, homes, services, balancer }
    }

    /// Starts all instances at once on the database, which is empty.
    pub async fn start(&mut self, setup: &Setup) {
        let first = self.homes.len() - usize::from(setup.older == Some(Older::Release));
        let starting = self.homes[..first].iter().map(Home::start);
        for (service, started) in self.services.iter_mut().zip(join_all(starting).await) {
            *service = Some(started);
        }
        let email = email_of(ADMINS[1]);
        let flags = ["create-admin", "--email", &email, "--username", ADMINS[1]];
        let flags = [&flags[..], &["--password-stdin"]].concat();
        self.homes[0].succeeds(&flags, PASSWORD).await;
        if let Some(balancer) = &self.balancer {
            balancer.sees_all().await;
        } else if let Doors::Balancer { check, call } = setup.doors {
            self.balancer = Balancer::with_patience(&self.homes, check, call).await;
        }
    }

    pub fn load(&self, excused: Duration) -> Arc<Load> {
        let doors = match &self.balancer {
            Some(balancer) => vec![balancer.url("")],
            None => self.homes.iter().map(|home| home.url("")).collect(),
        };
        Arc::new(Load::new(doors, BOUND + excused))
    }

    /// Lets people in, who stay until the load is over.
    pub fn people(load: &Arc<Load>, phones: usize) -> JoinSet<Option<VirtualUser>> {
        let mut people = JoinSet::new();
        for number in 0..PEOPLE {
            let person = VirtualUser::new(load, number);
            people.spawn(async move { Some(person.live().await) });
        }
        for number in PEOPLE..PEOPLE + phones {
            let person = VirtualUser::new(load, number);
            people.spawn(async move { Some(person.keep_a_session().await) });
        }
        let load = Arc::clone(load);
        people.spawn(async move {
            quarrel(load).await;
            None
        });
        people
    }

    /// Waits until every instance is ready; how long that took, if it did not take too long.
    pub async fn recovered(&mut self) -> Result<Duration, String> {
        let start = Instant::now();
        for (home, service) in self.homes.iter().zip(&mut self.services) {
            loop {
                let answer = home.get("/readyz").try_send().await;
                if answer.as_ref().is_ok_and(|answer| answer.status == 200) {
                    break;
                }
                let is_running = service.as_mut().is_some_and(Process::is_running);
                if !is_running || start.elapsed() > RECOVERY {
                    return Err(format!("not ready (running: {is_running}): {answer:?}"));
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(start.elapsed())
    }

    /// Replaces one instance as an operator does: it ends in its own time, and starts with its
    /// settings of now.
    pub async fn roll(&mut self, number: usize) {
        self.services[number].take().unwrap().stop().await;
        self.services[number] = Some(self.homes[number].start().await);
        if let Some(balancer) = &self.balancer {
            balancer.sees_all().await;
        }
    }

    pub fn signal(&self, number: usize, signal: Signal) {
        let id = self.services[number].as_ref().unwrap().id();
        kill_process(Pid::from_raw(id.try_into().unwrap()).unwrap(), signal).unwrap();
    }

    pub fn postgres(&mut self) -> &mut Postgres {
        self.postgres.as_mut().unwrap()
    }

    pub fn cluster(&mut self) -> &mut Cluster {
        self.cluster.as_mut().unwrap()
    }

    /// To the service's database.
    pub async fn pool(&self) -> PgPool {
        match (&self.cluster, &self.postgres) {
            (Some(cluster), _) => cluster.pool().await,
            (None, postgres) => postgres.as_ref().unwrap().pool(),
        }
    }

    pub fn proxy(&self) -> &TcpProxy {
        self.proxy.as_ref().unwrap()
    }
}

/// Where the instances run, and with which settings.
fn homes(setup: &Setup, url: &str, sink: &SmtpSink, cluster: Option<&Cluster>) -> Vec<Home> {
    let boss = email_of(ADMINS[0]);
    let has_balancer = setup.doors != Doors::Direct;
    let settings = [
        ("DATABASE_URL", url),
        ("SECRET_KEY", SECRET_KEY),
        ("PUBLIC_URL", PUBLIC_URL),
        ("SMTP_URL", &*sink.url()),
        ("MAIL_FROM", "Doorward <no-reply@example.com>"),
        ("RATE_LIMITS", "on"),
        ("TRUSTED_PROXY_HOPS", if has_balancer { "2" } else { "1" }),
        // The balancer needs a moment to notice that an instance leaves.
        ("SHUTDOWN_DELAY_SECONDS", if has_balancer { "1" } else { "0" }),
        ("ADMIN_EMAIL", &*boss),
        ("ADMIN_USERNAME", ADMINS[0]),
        ("ADMIN_PASSWORD", PASSWORD),
    ];
    let mut homes: Vec<_> = (0..setup.instances).map(|_| Home::new(&settings)).collect();
    for (name, value) in cluster.map(Cluster::settings).unwrap_or_default() {
        for home in &mut homes {
            home.set(&name, &value);
        }
    }
    if setup.faketime {
        let (library, last) = (libfaketime().unwrap(), homes.last_mut().unwrap());
        let file = last.folder().join("time");
        std::fs::write(&file, "+0").unwrap();
        last.set("LD_PRELOAD", library);
        last.set("FAKETIME_TIMESTAMP_FILE", file.to_str().unwrap());
        last.set("FAKETIME_NO_CACHE", "1");
        // A step moves the time of day alone.
        last.set("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
    if setup.older == Some(Older::Release) {
        homes[0].set("DOORWARD_BINARY", older_release().unwrap().to_str().unwrap());
    }
    homes
}

/// As the release before the last migration left it.
async fn migrate_to_older_schema(postgres: &Postgres) {
    let mut migrator = Migrator::new(root().join("migrations")).await.unwrap();
    let older = &migrator.migrations[..migrator.migrations.len() - 1];
    migrator.migrations = older.to_vec().into();
    let mut connection = postgres.connect_as_service().await.unwrap();
    migrator.run_direct(None, &mut connection, false).await.unwrap();
}
