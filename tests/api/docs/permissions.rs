//! `docs/permissions.md`: who may call what. Every cell of the table is run.

use std::collections::BTreeSet;
use std::fs;

use axum::http::Method;
use chrono::TimeDelta;
use doorward::router::openapi_document;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::app::{PUBLIC_URL, TestApp};
use crate::harness::machine::root;
use crate::harness::markdown::{in_backticks, rows};
use crate::harness::person::{PASSWORD, Person};

/// The callers of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    NoToken,
    User,
    Staff,
    Admin,
    LoggedOut,
    Banned,
    Deleted,
    ResetRequired,
}

/// Each with its column.
const CALLERS: [(Caller, usize); 8] = [
    (Caller::NoToken, 1),
    (Caller::User, 2),
    (Caller::Staff, 3),
    (Caller::Admin, 4),
    (Caller::LoggedOut, 5),
    (Caller::Banned, 5),
    (Caller::Deleted, 5),
    (Caller::ResetRequired, 5),
];

/// How long a proof is fresh, and longer than half of an access token's time.
const FRESH: TimeDelta = TimeDelta::minutes(15);

/// A call, and what each column says of it.
struct Row {
    method: Method,
    path: String,
    cells: Vec<String>,
}

fn table() -> Vec<Row> {
    let text = fs::read_to_string(root().join("docs/permissions.md")).unwrap();
    let rows = rows(&text).into_iter().map(|cells| {
        let call = in_backticks(cells[0]).next().unwrap();
        let (method, path) = call.split_once(' ').unwrap();
        let cells: Vec<String> = cells.into_iter().map(str::to_owned).collect();
        assert_eq!(cells.len(), 6, "{call}");
        Row { method: method.parse().unwrap(), path: path.to_owned(), cells }
    });
    rows.filter(|row| row.path.starts_with('/')).collect()
}

#[test]
fn every_call_of_the_document_has_a_row_and_no_other() {
    let document = openapi_document(PUBLIC_URL, 8);
    let mut calls = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            calls.insert(format!("{} {path}", method.to_ascii_uppercase()));
        }
    }
    let rows: Vec<String> =
        table().iter().map(|row| format!("{} {}", row.method, row.path)).collect();
    assert_eq!(rows.iter().cloned().collect::<BTreeSet<_>>(), calls);
    assert_eq!(rows.len(), calls.len(), "a call has two rows");
}

impl Caller {
    /// Somebody new, as the column has them.
    async fn make(self, app: &TestApp, boss: &Person, number: usize) -> Person {
        let name = format!("caller-{number}");
        let person = match self {
            Self::NoToken => return app.anonymous(),
            Self::User => return app.user(&name).await,
            Self::Staff => {
                let person = app.user(&name).await;
                let path = format!("/api/v1/users/{}?role=staff", person.id());
                boss.put(&path, &json!({})).await.assert_ok(200);
                return person;
            }
            Self::Admin => return app.admin_called(&name).await,
            _ => app.user(&name).await,
        };
        match self {
            Self::LoggedOut => {
                person.post("/api/v1/logout", &json!({})).await.assert_ok(200);
            }
            Self::Banned => {
                let path = format!("/api/v1/users/{}/ban", person.id());
                boss.put(&path, &json!({ "reason": "spam" })).await.assert_ok(200);
            }
            Self::Deleted => {
                let body = json!({ "password": PASSWORD });
                let call = person.call(Method::DELETE, "/api/v1/users/me").json(&body);
                call.send().await.assert_ok(202);
            }
            _ => not_me(app, &person).await,
        }
        person
    }

    /// What a call is answered with, in the words of the table.
    fn verdict(self, answer: &Value) -> &'static str {
        match (answer["code"].as_str().unwrap_or_default(), self) {
            ("token_missing", Self::NoToken) | ("session_ended", _) => "401",
            ("forbidden", _) => "403",
            ("step_up_required", _) => "step up",
            _ => "yes",
        }
    }
}

/// Changes the password, and disowns that by the letter that tells of it.
async fn not_me(app: &TestApp, person: &Person) {
    let body = json!({ "old_password": PASSWORD, "new_password": "quite another horse" });
    person.put("/api/v1/users/me/change_password", &body).await.assert_ok(200);
    let email = person.user["email"].as_str().unwrap();
    let letter = app.letter_to(email).await;
    let token = letter.text.split("token=").nth(1).unwrap().split_whitespace().next().unwrap();
    app.anonymous().post("/api/v1/not_me", &json!({ "token": token })).await.assert_ok(200);
    app.deliver_mail().await;
}

/// Calls every row as this caller, fresh or not; how many cells were run, and what was not as the
/// table says.
async fn run(caller: Caller, column: usize, is_fresh: bool) -> (usize, Vec<String>) {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let mut calls = Vec::new();
    for (number, row) in table().into_iter().enumerate() {
        let person = caller.make(&app, &boss, number).await;
        let mut path = row.path.clone();
        if path.contains("{public_id}") {
            let victim = app.newcomer(&format!("victim-{number}")).await;
            path = path.replace("{public_id}", victim.id());
        }
        while let Some((before, after)) = path.split_once('{') {
            path = format!("{before}{}{}", Uuid::now_v7(), after.split_once('}').unwrap().1);
        }
        calls.push((row, path, person));
    }
    if !is_fresh {
        app.clock.advance(FRESH);
    }
    let mut wrong = Vec::new();
    let count = calls.len();
    for (row, path, person) in calls {
        let call = person.call(row.method.clone(), &path).header("accept", "application/json");
        let call = if row.method == Method::GET { call } else { call.json(&json!({})) };
        let answer = call.send().await;
        assert!(answer.status.as_u16() < 500, "{} {path}: {}", row.method, answer.text);
        let expected = match row.cells[column].as_str() {
            "fresh" if is_fresh => "yes",
            "fresh" => "step up",
            word => word,
        };
        let found = caller.verdict(&answer.json);
        if found != expected {
            let Row { method, path, .. } = row;
            wrong.push(format!(
                "{caller:?}, fresh: {is_fresh}: {method} {path} is {expected}, and was {}",
                answer.text
            ));
        }
    }
    (count, wrong)
}

#[tokio::test]
async fn every_cell_is_what_the_table_says() {
    let (mut cells, mut wrong) = (0, Vec::new());
    for (caller, column) in CALLERS {
        for is_fresh in [true, false] {
            let (count, found) = run(caller, column, is_fresh).await;
            cells += count;
            wrong.extend(found);
        }
    }
    assert!(wrong.is_empty(), "of {cells} cells {} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(cells > 16 * 40, "{cells}");
}
