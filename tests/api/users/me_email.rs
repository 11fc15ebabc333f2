//! `PUT /users/me` with another e-mail address: at once where the present one was never verified,
//! else only once the new one is confirmed.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::answer::{Answer, only_winner};
use crate::harness::app::{TestApp, link_in};
use crate::harness::person::{PASSWORD, Person, email_of};

const ME: &str = "/api/v1/users/me";

async fn set_email(person: &Person, email: &str) -> Answer {
    person.put(ME, &json!({ "email": email, "password": PASSWORD })).await
}

/// Address, whether it is verified, and what waits to replace it.
async fn addresses(person: &Person) -> (Value, Value, Value) {
    let answer = person.get(ME).await;
    let user = &answer.assert_ok(200)["user"];
    (user["email"].clone(), user["email_verified"].clone(), user["pending_email"].clone())
}

fn is(email: &str, verified: bool, pending: Option<&str>) -> (Value, Value, Value) {
    (json!(email), json!(verified), json!(pending))
}

/// Follows the link in the letter to `address`, the only one on its way to it.
async fn confirm(app: &TestApp, address: &str) -> Answer {
    let link = link_in(&app.letter_to(address).await);
    app.anonymous().get(&link).await
}

#[tokio::test]
async fn an_address_that_was_never_verified_is_replaced_at_once() {
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    let old_link = link_in(&app.letter_to("ada@example.com").await);
    // It proves nothing, so no password is asked for.
    let answer = ada.put(ME, &json!({ "email": "Ada@New.example" })).await;
    assert_eq!(answer.assert_ok(200)["updated"], json!(["email"]));
    assert_eq!(addresses(&ada).await, is("Ada@New.example", false, None));

    app.anonymous().get(&old_link).await.assert_error(410, "link_expired");
    assert_eq!(addresses(&ada).await, is("Ada@New.example", false, None));
    let letters = app.deliver_mail().await;
    assert_eq!(letters.len(), 1, "nobody is told at an address that nobody has proven");
    assert_eq!(letters[0].to, "Ada@New.example");
    app.anonymous().get(&link_in(&letters[0])).await.assert_ok(200);
    assert_eq!(addresses(&ada).await, is("Ada@New.example", true, None));
    app.log_in("ada@new.EXAMPLE", PASSWORD).await;
    // The old one is free.
    let form = json!({ "username": "eve", "email": "ada@example.com", "password": PASSWORD });
    app.anonymous().post("/api/v1/users", &form).await.assert_ok(201);
}

#[tokio::test]
async fn a_letter_that_still_waits_does_not_go_to_an_address_that_was_replaced() {
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    set_email(&ada, "new@example.com").await.assert_ok(200);
    let letters = app.deliver_mail().await;
    assert_eq!(letters.iter().map(|l| l.to.as_str()).collect::<Vec<_>>(), ["new@example.com"]);
}

#[tokio::test]
async fn a_verified_address_stays_until_the_new_one_is_confirmed() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let answer = set_email(&ada, "New@example.com").await;
    assert_eq!(answer.assert_ok(200)["updated"], json!(["pending_email"]));
    assert_eq!(addresses(&ada).await, is("ada@example.com", true, Some("New@example.com")));

    // What waits is no name to log in by yet.
    ada.log_in("new@example.com", PASSWORD).await.assert_error(401, "invalid_credentials");
    app.log_in("ada@example.com", PASSWORD).await;

    let mut letters = app.deliver_mail().await;
    letters.sort_by(|one, other| one.to.cmp(&other.to));
    let [asked, told] = letters.as_slice() else { panic!("two letters: {letters:?}") };
    assert_eq!((asked.to.as_str(), told.to.as_str()), ("New@example.com", "ada@example.com"));
    // Enough to recognise it, for the one who asked; whoever else reads there learns no address.
    assert!(told.text.contains("N***@example.com"), "{}", told.text);
    assert!(!told.text.contains("New@"), "{}", told.text);
    assert!(!told.text.contains("/confirm"), "the old address confirms nothing");
    assert!(link_in(told).starts_with("/api/v1/not_me?token="));

    let link = link_in(asked);
    app.anonymous().get(&link).await.assert_ok(200);
    assert_eq!(addresses(&ada).await, is("New@example.com", true, None));
    app.log_in("new@example.com", PASSWORD).await;
    ada.log_in("ada@example.com", PASSWORD).await.assert_error(401, "invalid_credentials");
    app.anonymous().get(&link).await.assert_ok(200);
    assert_eq!(app.deliver_mail().await.len(), 0);
}

#[tokio::test]
async fn a_verified_address_is_not_changed_without_the_password() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let try_with = async |password: Value| {
        let body = json!({ "email": "new@example.com", "first_name": "Eve", "password": password });
        ada.put(ME, &body).await
    };
    let missing = [("password", "required")];
    ada.put(ME, &json!({ "email": "new@example.com" })).await.assert_fields(&missing);
    try_with(Value::Null).await.assert_fields(&missing);
    try_with(json!(["x"])).await.assert_fields(&[("password", "invalid_type")]);
    try_with(json!("")).await.assert_error(403, "wrong_password");
    try_with(json!("not it at all")).await.assert_error(403, "wrong_password");
    try_with(json!(PASSWORD.to_uppercase())).await.assert_error(403, "wrong_password");
    // With every other complaint at once.
    let body = json!({ "email": "new@example.com", "username": "x" });
    ada.put(ME, &body).await.assert_fields(&[("username", "too_short"), ("password", "required")]);

    let user = ada.get(ME).await;
    assert_eq!(user.json["user"]["first_name"], "");
    assert_eq!(addresses(&ada).await, is("ada@example.com", true, None));
    assert_eq!(app.deliver_mail().await.len(), 0);
}

#[tokio::test]
async fn going_back_to_the_present_address_takes_the_change_back() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    set_email(&ada, "new@example.com").await.assert_ok(200);
    let letters = app.deliver_mail().await;
    let link = letters.iter().find(|letter| letter.to == "new@example.com").map(link_in).unwrap();

    // Nothing is lost by it, so no password is asked for.
    let answer = ada.put(ME, &json!({ "email": "ada@example.com" })).await;
    assert_eq!(answer.assert_ok(200)["updated"], json!(["pending_email"]));
    assert_eq!(addresses(&ada).await, is("ada@example.com", true, None));
    app.anonymous().get(&link).await.assert_error(410, "link_expired");
    assert_eq!(addresses(&ada).await, is("ada@example.com", true, None));

    // And before any letter has left, none leaves.
    set_email(&ada, "other@example.com").await.assert_ok(200);
    set_email(&ada, "ada@example.com").await.assert_ok(200);
    assert_eq!(app.deliver_mail().await.len(), 0);
}

#[tokio::test]
async fn another_spelling_of_the_same_address_is_the_same_address() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let answer = ada.put(ME, &json!({ "email": "Ada@Example.COM" })).await;
    assert_eq!(answer.assert_ok(200)["updated"], json!(["email"]));
    assert_eq!(addresses(&ada).await, is("Ada@Example.COM", true, None));

    let bob = app.newcomer("bob").await;
    let link = link_in(&app.letter_to("bob@example.com").await);
    bob.put(ME, &json!({ "email": "BOB@example.com" })).await.assert_ok(200);
    assert_eq!(addresses(&bob).await, is("BOB@example.com", false, None));
    app.anonymous().get(&link).await.assert_ok(200);
    assert_eq!(addresses(&bob).await, is("BOB@example.com", true, None));
    assert_eq!(app.deliver_mail().await.len(), 0);
}

#[tokio::test]
async fn an_address_that_somebody_has_is_taken_in_any_case() {
    let app = TestApp::start().await;
    let (ada, _, cyd) = (app.user("ada").await, app.user("bob").await, app.newcomer("cyd").await);
    app.deliver_mail().await;
    for (person, before) in
        [(&ada, is("ada@example.com", true, None)), (&cyd, is("cyd@example.com", false, None))]
    {
        set_email(person, "Bob@example.com").await.assert_error(409, "email_taken");
        assert_eq!(addresses(person).await, before);
    }
    assert_eq!(app.deliver_mail().await.len(), 0);
}

/// The fields of an error that is no `validation_failed`, with their codes.
fn complaints(answer: &Answer) -> Vec<(&str, &str)> {
    let errors = answer.json["errors"].as_array().unwrap();
    errors.iter().map(|e| (e["field"].as_str().unwrap(), e["code"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn where_a_name_and_an_address_are_taken_both_are_told_the_name_first() {
    let app = TestApp::start().await;
    let (ada, _, cyd) = (app.user("ada").await, app.user("bob").await, app.newcomer("cyd").await);
    let taken = [("username", "username_taken"), ("email", "email_taken")];
    // Where the address would be replaced at once, and where it would wait.
    for person in [&ada, &cyd] {
        let body = json!({ "username": "Bob", "email": "BOB@example.com", "password": PASSWORD });
        let answer = person.put(ME, &body).await;
        answer.assert_error(409, "username_taken");
        assert_eq!(complaints(&answer), taken);
        let body = json!({ "username": "free", "email": "bob@example.com", "password": PASSWORD });
        let answer = person.put(ME, &body).await;
        answer.assert_error(409, "email_taken");
        assert_eq!(complaints(&answer), taken[1..]);
        let answer = person.put(ME, &json!({ "username": "bob", "first_name": "Eve" })).await;
        answer.assert_error(409, "username_taken");
        assert_eq!(complaints(&answer), taken[..1]);
        // One's own are not taken.
        let name = person.user["username"].as_str().unwrap();
        let body = json!({ "username": name, "email": "bob@example.com", "password": PASSWORD });
        assert_eq!(complaints(&person.put(ME, &body).await), taken[1..]);
    }
    assert_eq!(addresses(&ada).await, is("ada@example.com", true, None));
    assert_eq!(addresses(&cyd).await, is("cyd@example.com", false, None));
}

#[tokio::test]
async fn a_wrong_password_is_a_complaint_about_its_field() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let body = json!({ "email": "new@example.com", "password": "not it at all" });
    let answer = ada.put(ME, &body).await;
    answer.assert_error(403, "wrong_password");
    let error = json!({
        "field": "password", "code": "wrong_password", "message": "The password is wrong.",
    });
    assert_eq!(answer.json["errors"], json!([error]));
}

#[tokio::test]
async fn an_address_of_another_script_with_something_around_it_is_the_same_address() {
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    set_email(&ada, " Ada@B\u{fc}cher.example\u{200b}").await.assert_ok(200);
    let kept = "Ada@xn--bcher-kva.example";
    assert_eq!(addresses(&ada).await, is(kept, false, None));
    app.deliver_mail().await;
    let again = set_email(&ada, "Ada@b\u{fc}cher.example ").await;
    assert_eq!(again.assert_ok(200)["updated"], json!([]));
    assert_eq!(app.deliver_mail().await.len(), 0);
    let bob = app.user("bob").await;
    set_email(&bob, "ada@B\u{dc}CHER.example").await.assert_error(409, "email_taken");
}

#[tokio::test]
async fn an_address_that_waits_belongs_to_whoever_confirms_it_first() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    set_email(&ada, "shared@example.com").await.assert_ok(200);
    let adas = app.deliver_mail().await;
    let link = adas.iter().find(|letter| letter.to == "shared@example.com").map(link_in).unwrap();
    // Asking for an address does not keep others from having it.
    set_email(&bob, "shared@example.com").await.assert_ok(200);
    confirm(&app, "shared@example.com").await.assert_ok(200);
    assert_eq!(addresses(&bob).await, is("shared@example.com", true, None));
    app.anonymous().get(&link).await.assert_error(409, "email_taken");
    let waiting = Some("shared@example.com");
    assert_eq!(addresses(&ada).await, is("ada@example.com", true, waiting));
}

#[tokio::test]
async fn only_the_last_address_asked_for_can_be_confirmed() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    set_email(&ada, "one@example.com").await.assert_ok(200);
    let letters = app.deliver_mail().await;
    let first = letters.iter().find(|letter| letter.to == "one@example.com").map(link_in).unwrap();
    let answer = set_email(&ada, "two@example.com").await;
    assert_eq!(answer.assert_ok(200)["updated"], json!(["pending_email"]));
    // The same once more changes nothing and asks for no further letter.
    let again = set_email(&ada, "two@example.com").await;
    assert_eq!(again.assert_ok(200)["updated"], json!([]));
    app.anonymous().get(&first).await.assert_error(410, "link_expired");
    let letters = app.deliver_mail().await;
    assert_eq!(letters.len(), 2, "{letters:?}");
    let second = letters.iter().find(|letter| letter.to == "two@example.com").map(link_in).unwrap();
    app.anonymous().get(&second).await.assert_ok(200);
    assert_eq!(addresses(&ada).await, is("two@example.com", true, None));
}

#[tokio::test]
async fn of_twenty_changes_at_once_one_is_left_and_only_its_link_works() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let emails: Vec<String> = (0..20).map(|n| email_of(&format!("new{n}"))).collect();
    let answers = join_all(emails.iter().map(|email| set_email(&ada, email))).await;
    for answer in &answers {
        answer.assert_ok(200);
    }
    let (email, verified, pending) = addresses(&ada).await;
    assert_eq!((email, verified), (json!("ada@example.com"), json!(true)));
    let pending = pending.as_str().unwrap().to_owned();
    assert!(emails.contains(&pending));
    let letters = app.deliver_mail().await;
    let asked: Vec<_> = letters.iter().filter(|letter| letter.to != "ada@example.com").collect();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].to, pending);
    app.anonymous().get(&link_in(asked[0])).await.assert_ok(200);
    assert_eq!(addresses(&ada).await, is(&pending, true, None));
}

#[tokio::test]
async fn twenty_who_want_one_unverified_address_at_once_do_not_share_it() {
    let app = TestApp::start().await;
    let mut people = Vec::new();
    for n in 0..20 {
        people.push(app.newcomer(&format!("user{n}")).await);
    }
    app.deliver_mail().await;
    let answers = join_all(people.iter().map(|person| set_email(person, "one@example.com"))).await;
    only_winner(&answers, 409, "email_taken");
    app.letter_to("one@example.com").await;
}
