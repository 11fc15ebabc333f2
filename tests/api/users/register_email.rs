//! `POST /users/`: what an e-mail address may be, and what is dropped around one or a username.

use serde_json::json;

use crate::harness::app::TestApp;
use crate::users::register_fields::{kept, register};

#[tokio::test]
async fn an_email_is_one_address_of_at_most_254_bytes() {
    let app = TestApp::start().await;
    let label = "b".repeat(61);
    let longest = format!("{}@{label}.{label}.{label}.com", "a".repeat(64));
    for good in ["a@b.co", "Ada.Love+tag@Sub.Example.MUSEUM", "o'neil!#$%&*/=?^_`{|}~-@x-y.example"]
    {
        assert_eq!(kept(&app, "email", good).await, good);
    }
    assert_eq!(longest.len(), 254);
    assert_eq!(kept(&app, "email", &longest).await, longest);
    let too_long = format!("{}@{label}.{label}.{label}.coms", "a".repeat(64));
    assert_eq!(too_long.len(), 255);
    register(&app, json!({ "email": too_long })).await.assert_fields(&[("email", "too_long")]);
    let long_local = format!("{}@example.com", "a".repeat(65));
    let long_label = format!("a@{}.com", "b".repeat(64));
    for bad in [
        "",
        " ",
        "ada",
        "@example.com",
        "ada@",
        "ada@example",
        "ada@example.",
        "ada@.example.com",
        "ada@exa..mple.com",
        "ada@-x.com",
        "ada@x-.com",
        "ada@x_y.com",
        "ada@example.123",
        "ada@127.0.0.1",
        "ada@[127.0.0.1]",
        "ada@[IPv6:::1]",
        ".ada@example.com",
        "ada.@example.com",
        "a..da@example.com",
        "a da@example.com",
        "a da@example.com ",
        "ada @example.com",
        "ada\u{200b}@example.com",
        "ada@exa mple.com",
        "ada@exam\nple.com",
        "ada@example.com\r\nBcc: eve@example.com",
        "ada@example.com\u{0}",
        "ada@example.com,eve@example.com",
        "ada@example.com;eve@example.com",
        "ada@eve@example.com",
        "Ada <ada@example.com>",
        "<ada@example.com>",
        "\"ada\"@example.com",
        "ada(x)@example.com",
        "\u{e4}da@example.com",
        "ada@b\u{fc}cher",
        "ada@\u{fc}%41.example",
        "ada@\u{661}\u{662}\u{667}.\u{660}.\u{660}.\u{661}",
        "mailto:ada@example.com\u{7f}",
        &long_local,
        &long_label,
    ] {
        let code = if bad.contains('\0') { "invalid_characters" } else { "invalid_email" };
        register(&app, json!({ "email": bad })).await.assert_fields(&[("email", code)]);
    }
}

#[tokio::test]
async fn what_copying_put_around_a_username_or_an_address_is_dropped() {
    let app = TestApp::start().await;
    for around in [
        " ",
        "  ",
        "\t",
        "\n",
        "\r\n",
        "\u{a0}",
        "\u{85}",
        "\u{1680}",
        "\u{2003}",
        "\u{2028}",
        "\u{202f}",
        "\u{3000}",
        "\u{61c}",
        "\u{200b}",
        "\u{200c}",
        "\u{200d}",
        "\u{200e}",
        "\u{200f}",
        "\u{202a}",
        "\u{202b}",
        "\u{202c}",
        "\u{202d}",
        "\u{202e}",
        "\u{2060}",
        "\u{2066}",
        "\u{2067}",
        "\u{2068}",
        "\u{2069}",
        "\u{feff}",
        "\u{feff} \u{200b}\n",
    ] {
        for (field, plain) in [("username", "Ada"), ("email", "Ada@Example.com")] {
            let typed = format!("{around}{plain}{around}");
            assert_eq!(kept(&app, field, &typed).await, plain, "{typed:?}");
        }
    }
    // The longest ones are no longer by it.
    let longest = "a".repeat(64);
    assert_eq!(kept(&app, "username", &format!(" {longest} ")).await, longest);
    // Other marks are characters like any other.
    for odd in ["ada\u{2061}", "\u{ad}ada", "ada\u{fe0f}"] {
        let answer = register(&app, json!({ "username": odd })).await;
        answer.assert_fields(&[("username", "invalid_characters")]);
    }
    // In another spelling, with something around it, it is taken all the same.
    register(&app, json!({})).await.assert_ok(201);
    let again = json!({ "username": "\u{200b}ADA ", "email": " ada@example.com\u{feff}" });
    register(&app, again).await.assert_error(409, "username_taken");
}

#[tokio::test]
async fn a_domain_of_another_script_is_kept_in_the_form_that_mail_servers_know() {
    let app = TestApp::start().await;
    for (typed, plain) in [
        ("Ada@B\u{fc}cher.Example", "Ada@xn--bcher-kva.example"),
        ("ada@BU\u{308}CHER.example", "ada@xn--bcher-kva.example"),
        // Not `strasse`: that is another domain.
        ("ada@stra\u{df}e.example", "ada@xn--strae-oqa.example"),
        ("ada@\u{4f8b}\u{3048}\u{3002}\u{30c6}\u{30b9}\u{30c8}", "ada@xn--r8jz45g.xn--zckzah"),
        ("ada@\u{ff45}xample.com", "ada@example.com"),
        ("ada@XN--Bcher-KVA.example", "ada@XN--Bcher-KVA.example"),
        ("Ada@Example.COM", "Ada@Example.COM"),
    ] {
        assert_eq!(kept(&app, "email", typed).await, plain);
    }
    let long = format!("a@{}example", "\u{fc}.".repeat(80));
    register(&app, json!({ "email": long })).await.assert_fields(&[("email", "too_long")]);
}

#[tokio::test]
async fn a_refused_address_is_told_which_side_of_the_at_is_wrong() {
    let app = TestApp::start().await;
    for (bad, words) in [
        ("\u{e4}da@example.com", "Before the @"),
        ("a da@example.com", "a space before the @"),
        ("a..da@example.com", "the part before the @"),
        ("ada@-x.com", "the part after the @"),
        ("ada@b\u{fc}cher", "the part after the @"),
        ("ada@localhost", "the part after the @"),
        ("ada", "not a valid e-mail address"),
    ] {
        let answer = register(&app, json!({ "email": bad })).await;
        answer.assert_fields(&[("email", "invalid_email")]);
        let message = answer.json["errors"][0]["message"].as_str().unwrap();
        assert!(message.contains(words), "{bad:?}: {message}");
    }
}
