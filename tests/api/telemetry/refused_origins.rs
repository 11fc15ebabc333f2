//! What the log says of pages that may not call.

use reqwest::Method;

use crate::harness::home::Home;

#[tokio::test]
async fn an_origin_that_is_refused_is_told_once_with_the_setting_that_would_allow_it() {
    let (home, _) = Home::with_database(&[("CORS_ORIGINS", "https://app.example.com")]).await;
    let service = home.start().await;
    let from = async |origin: &str, mode: &str| {
        let call = home.call(Method::GET, "/api/v1/users/me").header("origin", origin);
        let call = if mode.is_empty() { call } else { call.header("sec-fetch-mode", mode) };
        assert_eq!(call.send().await.status, 401);
    };
    service.forget_log();
    for _ in 0..3 {
        from("https://other.example.com", "cors").await;
        from("null", "").await;
    }
    // Listed, our own, and a form that a browser sends.
    from("https://app.example.com", "cors").await;
    from("https://auth.example.com", "").await;
    from("null", "navigate").await;
    let log = service.take_log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("cors:")).collect();
    // The second half of a minute that ends meanwhile.
    assert!((2..=4).contains(&lines.len()), "{log}");
    let of = |origin: &str| lines.iter().filter(|line| line.contains(origin)).count();
    assert!(of("https://other.example.com") >= 1 && of("\"null\"") >= 1, "{log}");
    assert_eq!(of("app.example.com\"") + of("auth.example.com"), 0, "{log}");
    let advice = lines.iter().find(|line| line.contains("other.example.com")).unwrap();
    assert!(advice.contains("CORS_ORIGINS would allow it"), "{advice}");
    let null = lines.iter().find(|line| line.contains("\"null\"")).unwrap();
    assert!(!null.contains("CORS_ORIGINS"), "{null}");
    // A stranger does not fill the log by making up origins.
    for number in 0..60 {
        from(&format!("https://made-up-{number}.example"), "cors").await;
    }
    let log = service.take_log();
    let told = log.lines().filter(|line| line.contains("made-up")).count();
    assert!((1..=40).contains(&told), "{told}");
    service.stop().await;
}
