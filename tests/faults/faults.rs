//! The list of faults.

mod cluster;
mod database;
mod mail;
mod process;

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::smtp_sink::{Encryption, Kind, Mode};
use crate::load::Load;
use crate::server::SmallDisk;
use crate::world::{Doors, Older, Setup, World};

type Harm<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// One thing that breaks while people work.
pub struct Fault {
    pub name: &'static str,
    pub about: &'static str,
    /// Among those that are run before every merge.
    pub is_short: bool,
    pub setup: Setup,
    /// Does the harm, and is over when it is undone.
    pub harm: Do,
}

const PLAIN: Setup = Setup::PLAIN;
const PROXIED: Setup = Setup { proxy: true, ..PLAIN };
const TWO: Setup = Setup { instances: 2, ..PLAIN };
const BALANCED: Setup = Setup { doors: Doors::Balancer { check: 10, call: 30 }, ..TWO };

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Where libfaketime is, if it is installed.
pub fn libfaketime() -> Option<&'static str> {
    let places = [
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
        "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
        "/usr/lib64/faketime/libfaketimeMT.so.1",
        "/usr/lib/faketime/libfaketimeMT.so.1",
    ];
    places.into_iter().find(|place| Path::new(place).exists())
}

/// The program of an older release, where one is named.
pub fn older_release() -> Option<PathBuf> {
    std::env::var_os("DOORWARD_PREVIOUS").map(PathBuf::from)
}

impl Fault {
    /// Why it cannot be had on this machine, if it cannot.
    pub fn is_left_out(&self) -> Option<&'static str> {
        if self.setup.cluster
            && let Some(why) = crate::cluster::is_left_out()
        {
            return Some(why);
        }
        if self.setup.small_disk.is_some() && !SmallDisk::is_possible() {
            return Some("only root can mount a small disk");
        }
        if self.setup.faketime && libfaketime().is_none() {
            return Some("libfaketime is not installed");
        }
        if self.setup.older == Some(Older::Release) && older_release().is_none() {
            return Some("DOORWARD_PREVIOUS does not name the program of an older release");
        }
        None
    }
}

/// Every fault, the plain ones first.
pub fn all() -> Vec<Fault> {
    let mut all = of_the_database();
    all.extend(of_the_mail_server());
    all.extend(of_the_instances());
    all.extend(cluster::faults());
    for fault in &mut all {
        fault.is_short = SHORT.contains(&fault.name);
    }
    all
}

/// Those that are run before every merge.
const SHORT: [&str; 1] = ["kill-9-of-two"];

type Do = for<'a> fn(&'a mut World, &'a Load) -> Harm<'a>;

const fn fault(name: &'static str, about: &'static str, setup: Setup, harm: Do) -> Fault {
    Fault { name, about, is_short: false, setup, harm }
}

fn of_the_database() -> Vec<Fault> {
    vec![
        fault("nothing", "nothing breaks: what the others are measured against", PLAIN, |_, _| {
            Box::pin(tokio::time::sleep(seconds(5)))
        }),
        fault("restart-fast", "PostgreSQL is restarted three times: fast", PLAIN, |world, _| {
            Box::pin(database::restart(world, Signal::INT))
        }),
        fault(
            "restart-immediate",
            "PostgreSQL is restarted three times: immediate, with recovery",
            PLAIN,
            |world, _| Box::pin(database::restart(world, Signal::QUIT)),
        ),
        fault("cut", "every connection to the database is ended each second", PLAIN, |world, _| {
            Box::pin(database::cut(world))
        }),
        fault(
            "users-locked",
            "the table of users is locked for 12 s: all connections are used up",
            PLAIN,
            |world, _| Box::pin(database::lock(world, "users", seconds(12))),
        ),
        fault("limits-locked", "the table of limits is locked for 20 s", PLAIN, |world, _| {
            Box::pin(database::lock(world, "limits", seconds(20)))
        }),
        fault(
            "slow",
            "each way to the database and back takes 600 ms more",
            PROXIED,
            |world, _| Box::pin(database::slow(world)),
        ),
        fault(
            "half-open",
            "the way to the database swallows everything for 12 s; its connections stay dead",
            PROXIED,
            |world, _| Box::pin(database::half_open(world)),
        ),
        fault(
            "start-half-open",
            "the service is started while the way to the database swallows everything",
            PROXIED,
            |world, _| Box::pin(database::start_half_open(world)),
        ),
        fault(
            "read-only",
            "the database takes no writes for 8 s, and then those connections are kept",
            PLAIN,
            |world, _| Box::pin(database::read_only(world)),
        ),
        fault(
            "fail-over",
            "the primary dies and its synchronous standby is promoted",
            PROXIED,
            |world, _| Box::pin(database::fail_over(world)),
        ),
        fault(
            "disk-full",
            "PostgreSQL's disk is full for 8 s",
            Setup { small_disk: Some(96), ..PLAIN },
            |world, _| Box::pin(database::disk_full(world)),
        ),
        fault(
            "too-many-connections",
            "others hold all connections that the server has for 10 s",
            Setup { postgres: &["max_connections=30"], ..PLAIN },
            |world, _| Box::pin(database::too_many_connections(world)),
        ),
    ]
}

fn of_the_mail_server() -> Vec<Fault> {
    vec![
        fault("mail-down", "the mail server closes every connection", PLAIN, |world, _| {
            Box::pin(mail::behave(world, Mode::Down, seconds(6)))
        }),
        fault("mail-slow", "the mail server takes a second for each reply", PLAIN, |world, _| {
            Box::pin(mail::behave(world, Mode::Slow(seconds(1)), seconds(10)))
        }),
        fault(
            "mail-hangs",
            "the mail server keeps connections and says nothing",
            PLAIN,
            |world, _| Box::pin(mail::behave(world, Mode::Hang, seconds(12))),
        ),
        fault(
            "mail-greylists",
            "the mail server refuses each recipient once, for now",
            PLAIN,
            |world, _| Box::pin(mail::behave(world, Mode::Greylist, seconds(6))),
        ),
        fault(
            "mail-refuses",
            "the mail server refuses the sender, then each letter",
            PLAIN,
            |world, _| Box::pin(mail::refuse(world)),
        ),
        fault(
            "mail-cut-after-data",
            "the mail server takes each letter, and its answer is lost",
            PLAIN,
            |world, _| Box::pin(mail::behave(world, Mode::CutAfterData, seconds(6))),
        ),
        fault(
            "mail-bad-starttls",
            "the mail server's certificate is not trusted, after STARTTLS",
            mailed(|| Kind { tls: Encryption::StartTls, ..Kind::default() }),
            |world, load| Box::pin(mail::bad_certificate(world, load)),
        ),
        fault(
            "mail-bad-tls",
            "the mail server's certificate is not trusted, from the start",
            mailed(|| Kind { tls: Encryption::Implicit, ..Kind::default() }),
            |world, load| Box::pin(mail::bad_certificate(world, load)),
        ),
    ]
}

fn of_the_instances() -> Vec<Fault> {
    vec![
        fault("kill-9", "the service is killed five times, whenever", PLAIN, |world, _| {
            Box::pin(process::kill(world))
        }),
        fault(
            "freeze-alone",
            "the service is stopped for 20 s (SIGSTOP), and nobody else is there",
            Setup { excused: seconds(20), ..PLAIN },
            |world, _| Box::pin(process::freeze(world)),
        ),
        fault(
            "freeze-one-of-two",
            "one of two instances behind a balancer is stopped for 20 s (SIGSTOP)",
            Setup { doors: Doors::Balancer { check: 1, call: 8 }, ..TWO },
            |world, _| Box::pin(process::freeze(world)),
        ),
        fault(
            "two-instances",
            "two instances start on an empty database and race for 8 s",
            TWO,
            |_, _| Box::pin(tokio::time::sleep(seconds(8))),
        ),
        fault(
            "kill-9-of-two",
            "two instances, and one after the other is killed",
            TWO,
            |world, _| Box::pin(process::kill(world)),
        ),
        fault(
            "rolling",
            "two instances behind a balancer are replaced one after the other",
            BALANCED,
            |world, _| Box::pin(process::roll(world)),
        ),
        fault(
            "key-rotation",
            "the secret key of two instances is replaced, in the README's two steps",
            BALANCED,
            |world, _| Box::pin(process::rotate_key(world)),
        ),
        fault(
            "clock-steps",
            "the clock of one of two instances goes 10 min ahead, then 10 min behind",
            Setup { faketime: true, ..TWO },
            |world, _| Box::pin(process::step_clock(world)),
        ),
        fault(
            "migrations",
            "two instances bring an older schema up to date at once; then a newer release migrates",
            Setup { older: Some(Older::Schema), ..TWO },
            |world, _| Box::pin(process::migrate(world)),
        ),
        fault(
            "upgrade",
            "an older release is at work while this one starts, migrates and takes its place",
            Setup { older: Some(Older::Release), ..TWO },
            |world, _| Box::pin(process::upgrade(world)),
        ),
    ]
}

fn mailed(mail: fn() -> Kind) -> Setup {
    Setup { mail, ..PLAIN }
}
