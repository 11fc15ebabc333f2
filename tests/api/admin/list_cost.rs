//! What a page of the list of users costs: the rows that PostgreSQL reads for it, whatever order
//! and filters are asked for and however far down it stands.

use doorward::fields::{Role, Search};
use doorward::store::user_list::{self, Filter, SortBy};
use sqlx::PgConnection;

use crate::harness::app::TestApp;

const USERS: i64 = 20_000;
const PAGE: i64 = 20;
/// A page's own rows, and those that the planner may find cheaper to read than an index.
const FEW: i64 = 100;

/// Twenty thousand people, among them 40 on the staff, 5 admins, 30 unverified, 7 with a needle in
/// their name and 12 who are banned, half of whom are so no longer.
async fn populate(app: &TestApp) {
    let sql = "insert into users (id, username, email, email_verified_at, first_name, last_name, role, password_hash,
                   created_at, modified_at, banned_at, banned_until)
               select gen_random_uuid(), 'user' || n, 'user' || n || '@example.com',
                   case when n % 666 <> 1 then now() end, 'Ada' || n % 977, case when n % 2777 = 5 then 'Needle' else 'Lovelace' end,
                   case when n % 4000 = 3 then 'admin' when n % 500 = 3 then 'staff' else 'user' end, '',
                   now() - n * interval '1 second', now() - (n * 7919 % 20011) * interval '1 second',
                   case when n % 1666 = 7 then now() end,
                   case when n % 3332 = 7 then now() - interval '1 hour' end
               from generate_series(1, $1) n";
    sqlx::query(sql).bind(USERS).execute(&app.pool).await.unwrap();
    sqlx::query("vacuum analyze users").execute(&app.pool).await.unwrap();
}

/// Rows of users that this transaction has read.
async fn rows_read(db: &mut PgConnection) -> i64 {
    let sql =
        "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables where relname = 'users'";
    sqlx::query_scalar(sql).fetch_one(db).await.unwrap()
}

fn filters() -> Vec<Filter> {
    let search = |part: &str| Filter { search: Search::parse(part).unwrap(), ..Filter::default() };
    let mut filters = vec![
        Filter::default(),
        search("NEEDLE"),
        search("user1999"),
        search("user"),
        search("nobody"),
        search("NEEDLE user1999"),
        search("00000000-0000-7000-8000-000000000000"),
        Filter { email: Some("user1999@example.com".to_owned()), ..Filter::default() },
        Filter { username: Some("nobody".to_owned()), ..Filter::default() },
    ];
    for role in [None, Some(Role::User), Some(Role::Admin)] {
        for banned in [Some(true), Some(false)] {
            filters.push(Filter { role, banned, ..Filter::default() });
        }
    }
    filters.push(Filter { banned: Some(true), email_verified: Some(false), ..Filter::default() });
    filters.push(Filter { banned: Some(true), ..search("user") });
    let roles = [None, Some(Role::User), Some(Role::Staff), Some(Role::Admin)];
    let all = roles
        .iter()
        .flat_map(|role| [None, Some(true), Some(false)].map(|verified| (*role, verified)));
    filters.extend(all.map(|(role, email_verified)| Filter {
        role,
        email_verified,
        ..Filter::default()
    }));
    filters
}

#[tokio::test]
async fn a_page_costs_what_its_rows_cost_in_every_order_and_under_every_filter() {
    let app = TestApp::start().await;
    populate(&app).await;
    let mut tx = app.pool.begin().await.unwrap();
    let db = &mut *tx;
    for sort_by in [SortBy::CreatedAt, SortBy::ModifiedAt, SortBy::Username, SortBy::Email] {
        for sort in [(sort_by, false), (sort_by, true)] {
            let far = user_list::list(db, &Filter::default(), sort, None, USERS / 2).await.unwrap();
            let last = far.last().unwrap();
            let far = sort_by.position(last);
            for filter in filters() {
                for after in [None, Some(&far)] {
                    let before = rows_read(db).await;
                    let page = user_list::list(db, &filter, sort, after, PAGE).await.unwrap();
                    let read = rows_read(db).await - before;
                    let which = format!("{sort:?} {filter:?} after {after:?}: {} rows", page.len());
                    let shown = i64::try_from(page.len()).unwrap();
                    assert!((shown..=FEW).contains(&read), "{which}, {read} read");
                }
            }
        }
    }
}
