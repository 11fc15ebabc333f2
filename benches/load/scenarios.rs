//! What is measured, beside what, and what of it has to hold: the one list.

use crate::old_rows::Old;

/// The program that is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Doorward,
    /// With `SESSION_CACHE=off`.
    Uncached,
    /// The program that `DOORWARD_PREVIOUS` names: an older release.
    Previous,
    Floor,
    /// Behind HAProxy, on PostgreSQL behind PgBouncer: one instance, and three by turns.
    OneOfFleet,
    Fleet,
}

/// What it is asked for. The floor's paths are its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requests {
    Hello,
    /// As `Me` is asked.
    HelloWithToken,
    Me,
    Login,
    LoginWrong,
    /// As `Login`, from more connections than find room: a 503 is no failure, and not counted.
    LoginCrowd,
    /// Each token once.
    Refresh,
    /// Each name once.
    Register,
    /// Twenty users, as an admin.
    List,
    /// Page 5,000 of them.
    ListFar,
}

#[derive(Clone, Copy, Debug)]
pub enum Run {
    Ask(Target, Requests),
    /// No HTTP: Argon2 on as many threads as there are processors; by the service's hasher, or by
    /// the plain crate.
    Hash {
        plain: bool,
    },
    /// No service: pgbench, with the one query of `me`.
    Select,
}

#[derive(Clone, Copy, Debug)]
pub struct Contestant {
    pub name: &'static str,
    pub run: Run,
    /// In place of the scenario's.
    pub connections: Option<u32>,
    /// Milliseconds between two requests of a connection.
    pub pause: u32,
    /// Runs at the same time, and is measured too.
    pub beside: Option<&'static Contestant>,
    /// The old rows that the service, just started, removes meanwhile.
    pub cleaning_up: Option<Old>,
    /// Whether each slice is that of a new process: they differ by up to a fifth in how fast they
    /// hash.
    pub is_renewed: bool,
}

pub struct Scenario {
    pub name: &'static str,
    pub about: &'static str,
    pub connections: &'static [u32],
    /// One after the other in each round.
    pub contestants: &'static [Contestant],
    pub goals: &'static [Goal],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    Rate,
    P99,
}

/// What must hold between two contestants in each round, or of one.
#[derive(Clone, Copy)]
pub struct Goal {
    pub of: &'static str,
    pub measure: Measure,
    /// Without it the bound is absolute, in milliseconds.
    pub against: Option<&'static str>,
    pub bound: Bound,
    /// The connections at which it has to hold.
    pub at: &'static [u32],
}

#[derive(Clone, Copy)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
    /// Shown, without a goal.
    None,
}

const fn ask(name: &'static str, target: Target, requests: Requests) -> Contestant {
    plain(name, Run::Ask(target, requests))
}

const fn plain(name: &'static str, run: Run) -> Contestant {
    Contestant {
        name,
        run,
        connections: None,
        pause: 0,
        beside: None,
        cleaning_up: None,
        is_renewed: false,
    }
}

const fn renewed(name: &'static str, target: Target, requests: Requests) -> Contestant {
    Contestant { is_renewed: true, ..ask(name, target, requests) }
}

/// How often `of` is as fast as `against`.
const fn rate(of: &'static str, against: &'static str, bound: Bound, at: &'static [u32]) -> Goal {
    Goal { of, measure: Measure::Rate, against: Some(against), bound, at }
}

/// The 99th percentile of `of`, as a multiple of that of `against`, or in milliseconds.
const fn p99(of: &'static str, against: Option<&'static str>, bound: Bound) -> Goal {
    Goal { of, measure: Measure::P99, against, bound, at: ALL }
}

use Bound::{AtLeast, AtMost};
use Requests::{
    Hello, HelloWithToken, List, ListFar, Login, LoginCrowd, LoginWrong, Me, Refresh, Register,
};
use Target::{Doorward, Fleet, Floor, OneOfFleet, Previous, Uncached};

const ALL: &[u32] = &[1, 16, 64];
const FEW: &[u32] = &[16];
const BUSY: &[u32] = &[16, 64];
/// Connections of a flood of logins.
const FLOOD: u32 = 64;
/// With 16 connections about a thousand requests a second.
const PAUSE: u32 = 16;

static FLOOD_BESIDE: Contestant =
    Contestant { connections: Some(FLOOD), ..ask("logins beside the reads", Doorward, Login) };
static HASHES_BESIDE: Contestant =
    plain("floor: the hasher alone beside hello", Run::Hash { plain: false });
static FLOOR_BESIDE: Contestant =
    Contestant { connections: Some(FLOOD), ..ask("floor: logins beside hello", Floor, Login) };

pub static SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "me",
        about: "GET /users/me with the tokens of a hundred users",
        connections: ALL,
        contestants: &[
            ask("me", Doorward, Me),
            ask("floor: hello", Floor, Hello),
            ask("floor: hello, asked with a token", Floor, HelloWithToken),
            ask("me, SESSION_CACHE=off", Uncached, Me),
            ask("floor: me by axum and sqlx", Floor, Me),
            plain("floor: its query by pgbench", Run::Select),
        ],
        goals: &[
            rate("me", "floor: hello", AtLeast(0.8), BUSY),
            rate("me", "floor: hello, asked with a token", AtLeast(0.8), BUSY),
            rate("me", "floor: me by axum and sqlx", AtLeast(5.0), BUSY),
            rate("me, SESSION_CACHE=off", "floor: me by axum and sqlx", AtLeast(1.2), BUSY),
            rate("me, SESSION_CACHE=off", "floor: its query by pgbench", Bound::None, BUSY),
        ],
    },
    Scenario {
        name: "login",
        about: "POST /login, beside Argon2 alone on the same threads",
        connections: ALL,
        contestants: &[
            renewed("login", Doorward, Login),
            plain("floor: Argon2, the hasher alone", Run::Hash { plain: false }),
            renewed("floor: login", Floor, Login),
            renewed("login, wrong password", Doorward, LoginWrong),
            plain("floor: Argon2, the plain crate", Run::Hash { plain: true }),
        ],
        goals: &[
            rate("login", "floor: Argon2, the hasher alone", AtLeast(0.97), BUSY),
            rate("login", "floor: login", AtLeast(0.97), BUSY),
            rate("login, wrong password", "floor: Argon2, the hasher alone", AtLeast(0.97), BUSY),
            rate(
                "floor: Argon2, the hasher alone",
                "floor: Argon2, the plain crate",
                AtLeast(1.15),
                BUSY,
            ),
        ],
    },
    Scenario {
        name: "refresh",
        about: "POST /refresh, each token once",
        connections: ALL,
        contestants: &[ask("refresh", Doorward, Refresh), ask("floor: refresh", Floor, Refresh)],
        goals: &[rate("refresh", "floor: refresh", AtLeast(0.95), ALL)],
    },
    Scenario {
        name: "register",
        about: "POST /users/, each name once",
        connections: ALL,
        contestants: &[
            ask("register", Doorward, Register),
            ask("floor: register", Floor, Register),
        ],
        goals: &[rate("register", "floor: register", AtLeast(0.95), ALL)],
    },
    Scenario {
        name: "list",
        about: "GET /users/?limit=20, the first page and page 5,000",
        connections: ALL,
        contestants: &[
            ask("list, page 1", Doorward, List),
            ask("floor: list, page 1", Floor, List),
            ask("list, page 5,000", Doorward, ListFar),
            ask("floor: list, page 5,000", Floor, ListFar),
        ],
        goals: &[
            rate("list, page 1", "floor: list, page 1", AtLeast(0.95), ALL),
            rate("list, page 5,000", "floor: list, page 5,000", AtLeast(0.95), ALL),
            rate("list, page 5,000", "list, page 1", AtLeast(0.95), ALL),
        ],
    },
    Scenario {
        name: "flood",
        about: "about 1,000 GET /users/me a second while 64 connections log in as fast as they can",
        connections: &[16],
        contestants: &[
            Contestant { pause: PAUSE, ..ask("me at rest", Doorward, Me) },
            Contestant { connections: Some(FLOOD), ..ask("logins alone", Doorward, Login) },
            Contestant {
                pause: PAUSE,
                beside: Some(&FLOOD_BESIDE),
                ..ask("me under the flood", Doorward, Me)
            },
            Contestant { pause: PAUSE, ..ask("floor: hello at rest", Floor, Hello) },
            Contestant {
                pause: PAUSE,
                beside: Some(&HASHES_BESIDE),
                ..ask("floor: hello beside hashes", Floor, Hello)
            },
            Contestant {
                pause: PAUSE,
                beside: Some(&FLOOR_BESIDE),
                ..ask("floor: hello under its flood", Floor, Hello)
            },
        ],
        goals: &[
            p99("me under the flood", Some("me at rest"), AtMost(3.0)),
            p99("me under the flood", None, AtMost(20.0)),
            rate("logins beside the reads", "logins alone", AtLeast(0.9), ALL),
            // What a program that only says hello pays, for comparison.
            p99("floor: hello beside hashes", Some("floor: hello at rest"), Bound::None),
            p99("floor: hello under its flood", Some("floor: hello at rest"), Bound::None),
        ],
    },
    Scenario {
        name: "cleanup",
        about: "me and refresh while the service removes expired sessions",
        connections: &[16],
        contestants: &[
            ask("me", Doorward, Me),
            Contestant { cleaning_up: Some(Old::Sessions), ..ask("me, cleaning up", Doorward, Me) },
            ask("refresh", Doorward, Refresh),
            Contestant {
                cleaning_up: Some(Old::Sessions),
                ..ask("refresh, cleaning up", Doorward, Refresh)
            },
        ],
        goals: &[
            rate("me, cleaning up", "me", AtLeast(0.9), ALL),
            rate("refresh, cleaning up", "refresh", AtLeast(0.9), ALL),
        ],
    },
    Scenario {
        name: "audit",
        about: "refresh while the service removes rows of a large audit log",
        connections: &[16],
        contestants: &[
            ask("refresh", Doorward, Refresh),
            Contestant {
                cleaning_up: Some(Old::AuditRows),
                ..ask("refresh, cleaning up", Doorward, Refresh)
            },
        ],
        goals: &[rate("refresh, cleaning up", "refresh", AtLeast(0.95), ALL)],
    },
    Scenario {
        name: "crowd",
        about: "logins from more connections than the queue of passwords has room for",
        connections: FEW,
        contestants: &[
            Contestant { connections: Some(FLOOD), ..ask("logins at 64", Doorward, LoginCrowd) },
            Contestant { connections: Some(256), ..ask("logins at 256", Doorward, LoginCrowd) },
        ],
        goals: &[rate("logins at 256", "logins at 64", AtLeast(0.85), ALL)],
    },
    Scenario {
        name: "previous",
        about: "the same beside the program that DOORWARD_PREVIOUS names; passed over without one",
        connections: BUSY,
        contestants: &[
            ask("me", Doorward, Me),
            ask("me, previous", Previous, Me),
            renewed("login", Doorward, Login),
            renewed("login, previous", Previous, Login),
            ask("refresh", Doorward, Refresh),
            ask("refresh, previous", Previous, Refresh),
            ask("register", Doorward, Register),
            ask("register, previous", Previous, Register),
            ask("list, page 1", Doorward, List),
            ask("list, page 1, previous", Previous, List),
        ],
        goals: &[
            rate("me", "me, previous", AtLeast(0.95), BUSY),
            rate("login", "login, previous", AtLeast(0.95), BUSY),
            rate("refresh", "refresh, previous", AtLeast(0.95), BUSY),
            rate("register", "register, previous", AtLeast(0.95), BUSY),
            rate("list, page 1", "list, page 1, previous", AtLeast(0.95), BUSY),
        ],
    },
    Scenario {
        name: "instances",
        about: "three instances behind HAProxy and PgBouncer beside one, all on the same processors",
        connections: BUSY,
        contestants: &[
            ask("me, one instance", OneOfFleet, Me),
            ask("me, three instances", Fleet, Me),
            ask("refresh, one instance", OneOfFleet, Refresh),
            ask("refresh, three instances", Fleet, Refresh),
            ask("login, one instance", OneOfFleet, Login),
            ask("login, three instances", Fleet, Login),
        ],
        goals: &[
            rate("me, three instances", "me, one instance", Bound::None, ALL),
            rate("refresh, three instances", "refresh, one instance", Bound::None, ALL),
            rate("login, three instances", "login, one instance", Bound::None, ALL),
        ],
    },
];
