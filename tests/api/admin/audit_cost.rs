//! What a page of the audit log costs: the rows that PostgreSQL reads for it, whatever is asked for
//! and however far down it stands.

use chrono::{DateTime, TimeDelta, Utc};
use doorward::store::audit::EventKind;
use doorward::store::audit_list::{self, Filter};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::harness::app::TestApp;

const EVENTS: i64 = 100_000;
const PAGE: i64 = 20;
/// A page's own rows, as many again of its parts, and those within the disorder that is allowed
/// for, which are a minute apart here.
const FEW: i64 = 100;

fn id(number: i64) -> Uuid {
    Uuid::from_u128(u128::try_from(number).unwrap())
}

fn start() -> DateTime<Utc> {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

/// A minute apart: half of them logins; each 20,000th a role that an admin gave somebody, each
/// 10,000th from a rare address; of 500 users each did what they did to themselves.
async fn populate(app: &TestApp) {
    let person = "('00000000-0000-0000-0000-' || lpad(to_hex(n % 500 + 1), 12, '0'))::uuid";
    let sql = format!(
        "insert into audit_log (at, event, user_id, actor_id, ip, request_id, off_clock)
         select timestamptz '2026-01-01' + n * interval '1 minute',
             case when n % 20000 = 7 then 'role_changed' when n % 2 = 0 then 'login'
                 when n % 5 = 1 then 'logout' else 'profile_updated' end,
             {person},
             case when n % 20000 = 7 then '00000000-0000-0000-0000-00000000ffff'::uuid else {person} end,
             case when n % 10000 = 3 then '203.0.113.9'::inet else '198.51.100.1'::inet + n % 200 end,
             'request-' || n, case when n % 25000 = 5 then true end
         from generate_series(1, {EVENTS}) n"
    );
    sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&app.pool).await.unwrap();
    sqlx::query("vacuum analyze audit_log").execute(&app.pool).await.unwrap();
}

/// Rows of the log that this transaction has read.
async fn rows_read(db: &mut PgConnection) -> i64 {
    let sql = "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables where relname = 'audit_log'";
    sqlx::query_scalar(sql).fetch_one(db).await.unwrap()
}

/// Each filter alone, common or rare, and common ones with a rare value.
fn filters() -> Vec<Filter> {
    let event = |kind| Filter { event: Some(kind), ..Filter::default() };
    let (login, rare) = (event(EventKind::Login), event(EventKind::RoleChanged));
    let from = |ip: &str| Filter { ip: ip.parse().ok(), ..Filter::default() };
    let minutes = |minutes: i64| Some(start() + TimeDelta::minutes(minutes));
    let span =
        |since, until| Filter { since: minutes(since), until: minutes(until), ..Filter::default() };
    let boss = Filter { actor_id: Some(id(0xffff)), ..Filter::default() };
    let user = Filter { user_id: Some(id(7)), ..Filter::default() };
    let request = Filter { request_id: Some("request-70000".to_owned()), ..Filter::default() };
    vec![
        Filter::default(),
        login.clone(),
        rare.clone(),
        event(EventKind::FirstAdmin),
        from("198.51.100.7"),
        from("203.0.113.9"),
        from("192.0.2.1"),
        user.clone(),
        boss.clone(),
        Filter { actor_id: Some(id(7)), ..Filter::default() },
        Filter { actor_id: Some(id(7)), ..user.clone() },
        Filter { user_id: Some(id(8)), ..boss.clone() },
        request.clone(),
        span(40_000, 60_000),
        span(50_000, 50_010),
        span(99_000, 200_000),
        Filter { until: minutes(300), ..Filter::default() },
        Filter { since: minutes(99_990), ..Filter::default() },
        Filter { since: minutes(-10), ..Filter::default() },
        Filter { until: minutes(-10), ..Filter::default() },
        Filter { ip: "203.0.113.9".parse().ok(), ..login.clone() },
        Filter { request_id: Some("request-70000".to_owned()), ..login.clone() },
        Filter { event: Some(EventKind::Login), ..boss.clone() },
        Filter { event: Some(EventKind::Login), ..span(40_000, 60_000) },
        Filter { event: Some(EventKind::RoleChanged), ..span(40_000, 60_000) },
        Filter { actor_id: Some(id(0xffff)), ..span(1_000, 99_000) },
        Filter { ip: "203.0.113.9".parse().ok(), ..span(1_000, 99_000) },
        Filter { user_id: Some(id(7)), ..span(40_000, 60_000) },
        Filter { actor_id: Some(id(7)), ..span(40_000, 60_000) },
    ]
}

#[tokio::test]
async fn a_page_costs_what_its_rows_cost_under_every_filter_and_however_far_down() {
    let app = TestApp::start().await;
    populate(&app).await;
    let mut tx = app.pool.begin().await.unwrap();
    let db = &mut *tx;
    for filter in filters() {
        for descending in [true, false] {
            for after in [None, Some(EVENTS / 2)] {
                let before = rows_read(db).await;
                let page = audit_list::list(db, &filter, descending, after, PAGE).await.unwrap();
                let read = rows_read(db).await - before;
                let which =
                    format!("{filter:?} after {after:?}, {descending}: {} rows", page.len());
                let shown = i64::try_from(page.len()).unwrap();
                assert!((shown..=FEW).contains(&read), "{which}, {read} read");
            }
        }
    }
}

/// The rows of each filter, asked for plainly.
#[tokio::test]
async fn pages_hold_what_a_search_through_all_rows_finds() {
    let app = TestApp::start().await;
    populate(&app).await;
    let mut db = app.pool.acquire().await.unwrap();
    for filter in filters() {
        let page = audit_list::list(&mut db, &filter, true, None, 500).await.unwrap();
        let sql = "select id from audit_log where ($1::text is null or event = $1)
                       and ($2::uuid is null or user_id = $2) and ($3::uuid is null or actor_id = $3)
                       and ($4::inet is null or ip = $4) and ($5::text is null or request_id = $5)
                       and ($6::timestamptz is null or at >= $6) and ($7::timestamptz is null or at < $7)
                   order by id desc limit 500";
        let found: Vec<i64> = sqlx::query_scalar(sql)
            .bind(filter.event.map(EventKind::as_str))
            .bind(filter.user_id)
            .bind(filter.actor_id)
            .bind(filter.ip.map(sqlx::types::ipnetwork::IpNetwork::from))
            .bind(filter.request_id.clone())
            .bind(filter.since)
            .bind(filter.until)
            .fetch_all(&mut *db)
            .await
            .unwrap();
        let ids: Vec<i64> = page.iter().map(|entry| entry.id).collect();
        assert_eq!(ids, found, "{filter:?}");
    }
}
