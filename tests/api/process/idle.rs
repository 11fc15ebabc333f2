//! What a process asks of the database while no request comes, and how soon a letter leaves all the
//! same that another process has queued.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use crate::harness::cluster::cluster;
use crate::harness::home::Home;
use crate::harness::machine::note;
use crate::harness::pgbouncer::PgBouncer;
use crate::harness::process::Process;
use crate::harness::smtp_sink::SmtpSink;

/// The statements that the server logs of one database.
struct Statements {
    database: String,
    /// To another database: what is asked here is not logged.
    pool: PgPool,
}

impl Statements {
    /// Of all who connect to `database` from now on.
    async fn of(database: &str) -> Self {
        let options = cluster().await.connect_options("postgres");
        let pool = PgPool::connect_with(options).await.unwrap();
        let sql = format!("alter database {database} set log_statement = 'all'");
        sqlx::query(AssertSqlSafe(sql)).execute(&pool).await.unwrap();
        Self { database: database.to_owned(), pool }
    }

    async fn log(&self) -> String {
        let sql = "select pg_read_file(current_setting('data_directory') || '/../server.log')";
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }

    /// How a line of the log shows the processes that serve the database now: another test's are
    /// logged there, too.
    async fn processes(&self) -> Vec<String> {
        let sql = "select '[' || pid || ']' from pg_stat_activity where datname = $1";
        let processes = sqlx::query_scalar(sql).bind(&self.database);
        processes.fetch_all(&self.pool).await.unwrap()
    }

    /// How many come while nothing is asked of the process for 20 seconds.
    async fn in_twenty_idle_seconds(&self) -> usize {
        let (start, mut processes) = (self.log().await.len(), self.processes().await);
        tokio::time::sleep(Duration::from_secs(20)).await;
        processes.extend(self.processes().await);
        let log = self.log().await;
        let is_one = |line: &&str| {
            processes.iter().any(|process| line.contains(process))
                && ["statement: ", "execute "].iter().any(|words| line.contains(words))
        };
        let count = log[start..].lines().filter(is_one).count();
        note(&format!("{count} statements in 20 s"));
        count
    }
}

async fn home(settings: &[(&str, &str)], sink: &SmtpSink) -> (Home, String) {
    let (mut home, database) = Home::with_database(settings).await;
    home.set("SMTP_URL", &sink.url());
    home.set("MAIL_FROM", "no-reply@example.com");
    (home, database)
}

async fn pool_of(database: &str) -> PgPool {
    PgPool::connect_with(cluster().await.connect_options(database)).await.unwrap()
}

async fn queue(db: &mut PgConnection) {
    let sql = "insert into outbox (id, kind, recipient, created_at, next_attempt_at)
               values (gen_random_uuid(), 'test', 'you@example.com', now(), now())";
    sqlx::query(sql).execute(db).await.unwrap();
}

/// Queues a letter behind the process's back; how long it takes until the sink has it.
async fn time_to_leave(database: &str, sink: &SmtpSink, count: usize) -> Duration {
    queue(&mut pool_of(database).await.acquire().await.unwrap()).await;
    let queued_at = Instant::now();
    sink.wait_for(count).await;
    note(&format!("letter {count} has left {:?} after it was queued", queued_at.elapsed()));
    queued_at.elapsed()
}

/// Longer than a letter takes on a busy machine, and shorter than any poll.
const SOON: Duration = Duration::from_secs(3);

#[tokio::test]
async fn an_idle_instance_asks_the_database_less_than_once_a_second_and_sends_letters_at_once() {
    let sink = SmtpSink::start().await;
    let (home, database) = home(&[], &sink).await;
    let statements = Statements::of(&database).await;
    let service = home.start().await;
    // The cache counts as in use for the first ten seconds.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let asked = statements.in_twenty_idle_seconds().await;
    assert!(asked <= 20, "{asked} statements");
    assert!(time_to_leave(&database, &sink, 1).await < SOON);
    service.stop().await;
}

async fn listening(database: &str, channel: &str) -> i64 {
    let pool = pool_of(database).await;
    let sql = "select count(*) from pg_stat_activity
               where datname = current_database() and query ilike 'listen %' || $1 || '%'";
    sqlx::query_scalar(sql).bind(channel).fetch_one(&pool).await.unwrap()
}

async fn end_listening(database: &str) {
    let pool = pool_of(database).await;
    let sql = "select pg_terminate_backend(pid) from pg_stat_activity
               where datname = current_database() and query ilike 'listen %'";
    assert!(sqlx::query_scalar::<_, bool>(sql).fetch_one(&pool).await.unwrap());
}

async fn migrated_worker(home: &Home) -> Process {
    home.succeeds(&["migrate"], "").await;
    home.spawn("worker")
}

#[tokio::test]
async fn a_worker_of_its_own_is_told_of_letters_and_asks_more_often_while_it_is_not() {
    let sink = SmtpSink::start().await;
    let (home, database) = home(&[("WORKER", "off")], &sink).await;
    let statements = Statements::of(&database).await;
    let worker = migrated_worker(&home).await;
    // It listens by then, and has asked for letters a last time.
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(listening(&database, "doorward_outbox").await, 1);
    assert_eq!(listening(&database, "doorward_changes").await, 0, "it has no cache");
    assert!(time_to_leave(&database, &sink, 1).await < SOON);
    // Each second for as long as another letter may have come with that one.
    tokio::time::sleep(Duration::from_secs(11)).await;
    let asked = statements.in_twenty_idle_seconds().await;
    assert!(asked <= 10, "{asked} statements");

    // Of two that are queued at once one announces both; the other is committed when that is old.
    let pool = pool_of(&database).await;
    let mut announcing = pool.begin().await.unwrap();
    queue(&mut announcing).await;
    let mut silent = pool.begin().await.unwrap();
    queue(&mut silent).await;
    announcing.commit().await.unwrap();
    sink.wait_for(2).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let committed_at = Instant::now();
    silent.commit().await.unwrap();
    sink.wait_for(3).await;
    assert!(committed_at.elapsed() < SOON, "{:?}", committed_at.elapsed());

    end_listening(&database).await;
    assert!(time_to_leave(&database, &sink, 4).await < Duration::from_secs(5) + SOON);
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert!(time_to_leave(&database, &sink, 5).await < SOON);
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_that_cannot_listen_asks_every_five_seconds() {
    let Some(bouncer) = PgBouncer::start("").await else { return };
    let sink = SmtpSink::start().await;
    let (mut home, database) = home(&[("DATABASE_POOLER", "on"), ("WORKER", "off")], &sink).await;
    home.set("DATABASE_URL", &bouncer.url(&database));
    let worker = migrated_worker(&home).await;
    worker.wait_for_log("the worker asks the database for letters every few seconds").await;
    // It asks each second for the first ten.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let took = time_to_leave(&database, &sink, 1).await;
    assert!(took < Duration::from_secs(5) + SOON, "{took:?}");
    worker.stop().await;
}
