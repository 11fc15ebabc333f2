//! `POST /users/`: the rules of each field, and how complaints are made.

use serde_json::{Value, json};

use crate::harness::answer::Answer;
use crate::harness::app::TestApp;
use crate::harness::person::PASSWORD;

/// Registers a person of whom everything is in order but `fields`.
pub async fn register(app: &TestApp, fields: Value) -> Answer {
    let mut form = json!({
        "username": "ada", "email": "ada@example.com", "password": PASSWORD,
        "first_name": "Augusta", "last_name": "Lovelace",
    });
    let Value::Object(fields) = fields else { panic!("fields are an object") };
    form.as_object_mut().unwrap().extend(fields);
    app.anonymous().post("/api/v1/users", &form).await
}

/// Registers a person with this in one field, and deletes them again; what was kept.
pub async fn kept(app: &TestApp, field: &str, value: &str) -> String {
    let answer = register(app, json!({ field: value })).await;
    let kept = answer.assert_ok(201)["user"][field].as_str().unwrap_or_default().to_owned();
    sqlx::query("delete from users").execute(&app.pool).await.unwrap();
    kept
}

#[tokio::test]
async fn a_username_is_3_to_64_plain_characters_and_starts_with_a_letter_or_digit() {
    let app = TestApp::start().await;
    let longest = "a".repeat(64);
    for good in ["abc", "A.b_c-9", "0ad", "9__", "a..", "a--", "meme", "null0", &longest] {
        assert_eq!(kept(&app, "username", good).await, good);
    }
    let too_long = "a".repeat(65);
    for (bad, code) in [
        ("", "too_short"),
        ("ab", "too_short"),
        // Three bytes and more, but two code points.
        ("\u{1f600}b", "too_short"),
        (&too_long, "too_long"),
        ("_ada", "invalid_characters"),
        (".ada", "invalid_characters"),
        ("-ada", "invalid_characters"),
        ("a da", "invalid_characters"),
        ("a\nda", "invalid_characters"),
        ("a\tda", "invalid_characters"),
        // Without what is around it, it is too short, or nothing.
        (" ab ", "too_short"),
        ("\u{200b}\u{feff}  ", "too_short"),
        ("ada\u{0}", "invalid_characters"),
        ("ada\u{7f}", "invalid_characters"),
        ("ada@b", "invalid_characters"),
        ("ada:b", "invalid_characters"),
        ("ada/b", "invalid_characters"),
        ("ada%41", "invalid_characters"),
        ("\u{e4}da", "invalid_characters"),
        // Cyrillic, full width, and a Kelvin sign that lower-cases to an ASCII letter.
        ("\u{430}da", "invalid_characters"),
        ("\u{ff41}da", "invalid_characters"),
        ("\u{212a}ada", "invalid_characters"),
        ("ad\u{200b}a", "invalid_characters"),
    ] {
        register(&app, json!({ "username": bad })).await.assert_fields(&[("username", code)]);
    }
}

#[tokio::test]
async fn a_reserved_word_is_nobodys_username_in_any_case() {
    let app = TestApp::start().await;
    for word in ["admin", "Admin", "API", "root", "null", "undefined", "Staff", "no-reply", "users"]
    {
        let answer = register(&app, json!({ "username": word })).await;
        answer.assert_fields(&[("username", "reserved")]);
    }
    // `me` is reserved and too short: either way nobody is called that.
    register(&app, json!({ "username": "me" })).await.assert_fields(&[("username", "too_short")]);
    assert_eq!(kept(&app, "username", "administrata").await, "administrata");
}

#[tokio::test]
async fn a_name_is_kept_composed_and_can_be_seen() {
    let app = TestApp::start().await;
    for field in ["first_name", "last_name"] {
        assert_eq!(kept(&app, field, " Zoe\u{308} ").await, "Zo\u{eb}");
        // A joiner inside a word, or an emoji of several, is how it is written.
        for good in ["\u{645}\u{6cc}\u{200c}\u{62e}", "\u{1f469}\u{200d}\u{1f4bb}"] {
            assert_eq!(kept(&app, field, good).await, good);
        }
        // 100 characters once they are composed.
        let composed = kept(&app, field, &"e\u{301}".repeat(100)).await;
        assert_eq!(composed, "\u{e9}".repeat(100));
        for unseen in [
            "\u{200b}",
            "\u{200b} \u{200b}",
            "\u{ad}",
            "\u{2800}\u{2800}",
            "\u{3164}",
            "\u{feff}",
            "\u{115f}\u{1160}",
            "\u{e0020}",
            "\u{200e}",
        ] {
            let answer = register(&app, json!({ field: unseen })).await;
            answer.assert_fields(&[(field, "invalid_characters")]);
        }
        let too_long = "e\u{301}".repeat(101);
        register(&app, json!({ field: too_long })).await.assert_fields(&[(field, "too_long")]);
    }
}

#[tokio::test]
async fn a_name_is_at_most_100_characters_none_of_them_a_control_character() {
    let app = TestApp::start().await;
    for field in ["first_name", "last_name"] {
        // Code points, not bytes: this one has 400 of them.
        let longest = "\u{1f600}".repeat(100);
        for good in
            ["", "Ada", "d'Arcy-O\u{2019}Neil Jr.", "\u{5f20}\u{4f1f}", "Zo\u{eb}", &longest]
        {
            assert_eq!(kept(&app, field, good).await, good);
        }
        // Space around a name is no part of it.
        assert_eq!(kept(&app, field, "  Ada King  ").await, "Ada King");
        assert_eq!(kept(&app, field, "   ").await, "");
        let too_long = "a".repeat(101);
        for (bad, code) in [
            (too_long.as_str(), "too_long"),
            ("A\u{0}da", "invalid_characters"),
            ("A\nda", "invalid_characters"),
            ("A\u{1b}[31mda", "invalid_characters"),
            ("A\u{7f}da", "invalid_characters"),
            ("A\u{85}da", "invalid_characters"),
            ("A\u{2028}da", "invalid_characters"),
            ("A\u{202e}da", "invalid_characters"),
            ("A\u{2066}da", "invalid_characters"),
        ] {
            register(&app, json!({ field: bad })).await.assert_fields(&[(field, code)]);
        }
    }
}

#[tokio::test]
async fn a_password_has_8_to_256_code_points_and_no_other_rule_of_composition() {
    let app = TestApp::start().await;
    let longest = "\u{1f600}".repeat(256);
    let decomposed = "e\u{301}".repeat(256);
    for good in [
        "xkqzwvjy",
        "        ",
        "q\tq\nq\u{7f}q\u{e9}",
        "\u{1f600}\u{1f601}\u{1f602}\u{1f603}\u{1f604}\u{1f605}\u{1f606}\u{1f607}",
        &longest,
        &decomposed,
    ] {
        kept(&app, "password", good).await;
    }
    let too_long = "x".repeat(257);
    let huge = "\u{1f600}".repeat(4_000);
    // 8 code points that are 4 once they are composed.
    let composed_too_short = "e\u{301}".repeat(4);
    for (bad, code) in [
        ("", "too_short"),
        ("xkqzwvj", "too_short"),
        ("\u{1f600}\u{1f600}\u{1f600}", "too_short"),
        (&composed_too_short, "too_short"),
        (&too_long, "too_long"),
        (&huge, "too_long"),
        ("xkqzwvjy\u{0}", "invalid_characters"),
    ] {
        register(&app, json!({ "password": bad })).await.assert_fields(&[("password", code)]);
    }
}

#[tokio::test]
async fn a_long_password_is_never_cut() {
    let app = TestApp::start().await;
    let password = format!("{}y", "x".repeat(255));
    register(&app, json!({ "password": password })).await.assert_ok(201);
    let stranger = app.anonymous();
    stranger.log_in("ada", &password).await.assert_ok(200);
    for near in [&password[..255], &password[..72], &format!("{}z", "x".repeat(255))] {
        stranger.log_in("ada", near).await.assert_error(401, "invalid_credentials");
    }
    stranger.log_in("ada", &format!("{password}x")).await.assert_error(401, "invalid_credentials");
}

#[tokio::test]
async fn a_password_that_everybody_would_try_is_refused_and_the_answer_says_which() {
    let app = TestApp::start().await;
    for (bad, code) in [
        ("password1", "too_common"),
        ("PassWord1", "too_common"),
        ("12345678", "too_common"),
        // What a rule of composition makes of it.
        ("Password2024!", "too_common"),
        ("!!Welcome99", "too_common"),
        ("12345678#", "too_common"),
        ("Qwerty!2026", "too_common"),
        ("--sunshine--", "too_common"),
        // The one in the documentation.
        ("correct horse battery staple", "too_common"),
        ("augusta-ada", "same_as_username"),
        ("AUGUSTA-ADA", "same_as_username"),
        ("a.lovelace@example.com", "same_as_email"),
        ("A.Lovelace", "same_as_email"),
        ("lovelace", "same_as_name"),
        ("Augusta Lovelace", "same_as_name"),
        ("augustaLOVELACE", "same_as_name"),
        ("Doorward", "same_as_service"),
        ("Doorward2026!", "same_as_service"),
    ] {
        let form = json!({
            "username": "Augusta-Ada", "email": "A.Lovelace@Example.com", "password": bad,
        });
        register(&app, form).await.assert_fields(&[("password", code)]);
    }
    // Something more than a name is not the name.
    kept(&app, "password", "lovelace and her engine").await;
    // Nor are digits that are a password by themselves the common word beside them.
    kept(&app, "password", "welcome-8351-9027-4416").await;
    kept(&app, "password", "password and more").await;
}

#[tokio::test]
async fn the_operator_may_raise_the_shortest_password() {
    let app = TestApp::with(&[("MIN_PASSWORD_LENGTH", "12")]).await;
    let answer = register(&app, json!({ "password": "xkqzwvjyhgf" })).await;
    answer.assert_fields(&[("password", "too_short")]);
    assert_eq!(answer.json["errors"][0]["message"], "Use at least 12 characters.");
    kept(&app, "password", "xkqzwvjyhgfd").await;
}

#[tokio::test]
async fn all_complaints_come_at_once_and_in_the_order_of_the_fields() {
    let app = TestApp::start().await;
    let form = json!({
        "password": "short", "last_name": "\u{7}", "first_name": "x".repeat(101), "email": "nobody",
        "username": "-x-",
    });
    let answer = register(&app, form).await;
    answer.assert_fields(&[
        ("username", "invalid_characters"),
        ("email", "invalid_email"),
        ("first_name", "too_long"),
        ("last_name", "invalid_characters"),
        ("password", "too_short"),
    ]);
    for error in answer.json["errors"].as_array().unwrap() {
        assert_eq!(error.as_object().unwrap().len(), 3);
        assert!(error["message"].as_str().unwrap().ends_with('.'));
    }
    // U+0000 is a complaint about its field like any other.
    let form = json!({ "username": "ab", "email": "a\u{0}", "password": "x\u{0}", "zzz": "\u{0}" });
    register(&app, form).await.assert_fields(&[
        ("username", "too_short"),
        ("email", "invalid_characters"),
        ("password", "invalid_characters"),
        ("zzz", "invalid_characters"),
    ]);
}

#[tokio::test]
async fn a_missing_field_is_named() {
    let app = TestApp::start().await;
    let missing = [("username", "required"), ("email", "required"), ("password", "required")];
    app.anonymous().post("/api/v1/users", &json!({})).await.assert_fields(&missing);
    let nulls = json!({ "username": null, "email": null, "password": null });
    register(&app, nulls).await.assert_fields(&missing);
    let renamed = json!({ "Username": "ada", "e-mail": "a@example.com", "pass": PASSWORD });
    app.anonymous().post("/api/v1/users", &renamed).await.assert_fields(&missing);
}

#[tokio::test]
async fn a_field_of_another_type_is_refused_and_not_converted() {
    let app = TestApp::start().await;
    for value in
        [json!(12_345_678), json!(1.5), json!(true), json!(["abcdefgh"]), json!({ "a": "b" })]
    {
        let form = json!({
            "username": value, "email": value, "first_name": value, "last_name": value,
            "password": value,
        });
        register(&app, form).await.assert_fields(&[
            ("username", "invalid_type"),
            ("email", "invalid_type"),
            ("first_name", "invalid_type"),
            ("last_name", "invalid_type"),
            ("password", "invalid_type"),
        ]);
    }
}
