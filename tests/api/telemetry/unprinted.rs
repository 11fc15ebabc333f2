//! What holds a secret shows none of it where it is printed for a log or a panic.

use doorward::account::sessions::TokenPair;
use doorward::config::{Config, VARIABLES};
use doorward::fields::{NewPassword, Password, PasswordContext};
use doorward::mail::{Letter, SmtpSettings};
use doorward::store::users;

use crate::harness::app::TestApp;
use crate::harness::person::PASSWORD;

#[tokio::test]
async fn a_user_is_printed_without_the_hash_of_the_password() {
    let app = TestApp::start().await;
    let ada = app.newcomer("ada").await;
    let mut db = app.state.db.acquire().await.unwrap();
    let user = users::find(&mut db, ada.id().parse().unwrap()).await.unwrap().unwrap();
    let stored: String =
        sqlx::query_scalar("select password_hash from users").fetch_one(&app.pool).await.unwrap();
    let printed = format!("{user:?} {user:#?}");
    assert!(printed.contains("password_hash") && !printed.contains(&stored), "{printed}");
    assert!(!printed.contains("$argon2"), "{printed}");
}

#[test]
fn settings_are_printed_without_their_secrets() {
    let secret = "Zq7dN1ubF5wKx0rTg8sYh3jQm6vPc2LaEi9oUeBnR4k";
    let values = |name: &str| match name {
        "DATABASE_URL" | "DATABASE_DIRECT_URL" | "DATABASE_READ_URL" => {
            Some(format!("postgres://doorward:{secret}@db.example/doorward"))
        }
        "SMTP_URL" => Some(format!("smtps://doorward:{secret}@mail.example")),
        "MAIL_FROM" | "ADMIN_EMAIL" => Some("a@example.com".to_owned()),
        "PUBLIC_URL" => Some("https://auth.example.com".to_owned()),
        _ => doorward::config::SETTINGS
            .iter()
            .find(|setting| setting.name == name)
            .filter(|setting| setting.is_secret && !name.starts_with("GMAIL"))
            .map(|_| secret.to_owned()),
    };
    assert!(
        VARIABLES.iter().filter_map(|name| values(name)).filter(|it| it.contains(secret)).count()
            >= 8
    );
    let config = Config::from_vars(values).unwrap();
    let printed = format!("{config:?}");
    assert!(printed.contains("metrics_token: Some(") && !printed.contains(secret), "{printed}");
    let gmail = Config::read(|name| name.starts_with("GMAIL").then(|| secret.to_owned())).0;
    let printed = format!("{:?}", gmail.smtp);
    assert_eq!(printed.matches(secret).count(), 1, "the address alone: {printed}");
    let smtp = SmtpSettings::parse(&format!("smtps://doorward:{secret}@mail.example")).unwrap();
    assert!(!format!("{smtp:?}").contains(secret));
}

#[test]
fn passwords_tokens_and_letters_are_printed_without_what_they_hold() {
    let new = NewPassword::parse(PASSWORD, 8, &PasswordContext::default()).unwrap();
    assert!(!format!("{new:?} {:?}", Password::claimed(PASSWORD)).contains(PASSWORD));
    let (access, refresh) = ("token-of-access".to_owned(), "token-of-refresh".to_owned());
    let printed = format!("{:?}", TokenPair { access, refresh, expires_in: 1800 });
    assert!(printed.contains("1800") && !printed.contains("token-of"), "{printed}");
    let [to, subject, text, html] =
        ["a@example.com", "hidden", "hidden", "hidden"].map(str::to_owned);
    let letter = Letter { message_id: "<1@example.com>".to_owned(), to, subject, text, html };
    let printed = format!("{letter:?}");
    assert!(!printed.contains("hidden") && !printed.contains("a@example.com"), "{printed}");
}
