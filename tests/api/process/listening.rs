//! Where `serve` listens, what it says where it cannot, and what a closed terminal does.

use std::net::TcpListener;
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::harness::home::Home;
use crate::harness::machine::{free_port, note};
use crate::harness::process::handles;
use crate::harness::wait::eventually;

#[tokio::test]
async fn an_address_that_cannot_be_listened_on_is_told_with_what_to_set() {
    let mut home = Home::new(&[]);
    // TEST-NET-3 (RFC 5737): no machine has it.
    home.set("HOST", "203.0.113.7");
    let said = home.fails(&["serve"], "").await;
    assert!(said.contains("Set HOST to an address of this machine"), "{said}");
    home.set("HOST", "127.0.0.1");
    let taken = TcpListener::bind(("127.0.0.1", home.port())).unwrap();
    let said = home.fails(&["serve"], "").await;
    assert!(said.contains("Set PORT to another one"), "{said}");
    drop(taken);
    if !rustix::process::getuid().is_root() {
        return note(
            "passed over: whether a port below 1024 is free to take is told to root alone",
        );
    }
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"];
    let output = home.within("setpriv", &nobody, &["serve", "--port", "81"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    if said.contains("Permission denied") {
        assert!(said.contains("A port below 1024 is for root"), "{said}");
    } else {
        note(&format!("passed over: this machine gives everybody port 81: {said}"));
    }
}

#[tokio::test]
async fn the_command_line_comes_before_the_environment() {
    let (mut home, _) = Home::with_database(&[]).await;
    let port = home.port();
    home.set("PORT", "1");
    home.set("HOST", "203.0.113.7");
    let arguments = ["serve", "--host", "localhost", "--port", &port.to_string()];
    let mut service = home.spawn_as("serve", home.command(&arguments));
    home.ready(&mut service).await;
    let asked = ["healthcheck", "--host=127.0.0.1", "--port", &port.to_string()];
    home.succeeds(&asked, "").await;
    service.stop().await;

    let said = home.fails(&["serve", "--port", "eighty"], "").await;
    assert!(said.contains("PORT must be a whole number from 0 to 65535"), "{said}");
    let said = home.fails(&["serve", "--host", "example.com"], "").await;
    assert!(said.contains("HOST must be the IP address"), "{said}");
    for (mistyped, meant) in [("--prot", "--port"), ("--hots", "--host")] {
        let output = home.run(&["serve", mistyped, "1"], "").await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(said.contains(&format!("'{meant}'")), "{said}");
    }
    let help = home.succeeds(&["help", "serve"], "").await;
    for part in ["--host", "--port", "SECRET_KEY", "PUBLIC_URL", "doorward settings"] {
        assert!(help.contains(part), "{part}: {help}");
    }
}

#[tokio::test]
async fn a_port_alone_is_for_this_machine_in_development() {
    let mut home = Home::new(&[]);
    home.set("HOST", "");
    let service = home.start().await;
    let log = service.stop().await;
    assert!(log.contains(&format!("address=127.0.0.1:{}", home.port())), "{log}");
    let (mut home, _) = Home::with_database(&[]).await;
    home.set("HOST", "");
    let service = home.start().await;
    let log = service.stop().await;
    assert!(log.contains(&format!("\"address\":\"0.0.0.0:{}\"", home.port())), "{log}");
}

#[tokio::test]
async fn a_database_that_is_set_and_empty_beside_a_public_url_ends_the_start() {
    let home = Home::new(&[("PUBLIC_URL", "https://auth.example.com")]);
    let output = home.command(&["serve"]).env("DATABASE_URL", "").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("DATABASE_URL is set and empty, while PUBLIC_URL"), "{said}");
    assert!(!home.folder().join(".doorward").exists(), "no private PostgreSQL");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_terminal_that_is_closed_stops_the_service_as_sigterm_does() {
    let (home, _) = Home::with_database(&[]).await;
    for command in ["serve", "worker"] {
        // Also where whoever runs the tests has them ignore it.
        let heeding = home.within("env", &["--default-signal=HUP"], &[command]);
        let mut process = home.spawn_as(command, heeding);
        if command == "serve" {
            home.ready(&mut process).await;
        }
        let id = Pid::from_raw(process.id().try_into().unwrap()).unwrap();
        eventually("it hears of it", async || handles(id, Signal::HUP)).await;
        process.hang_up();
        let status = process.end().await;
        assert_eq!(status.code(), Some(0), "{}", process.log());
        assert!(process.log().contains("\"signal\":\"SIGHUP\""), "{}", process.log());
    }
}

#[tokio::test]
async fn under_nohup_a_service_stays_when_its_terminal_is_closed() {
    let (home, _) = Home::with_database(&[]).await;
    let mut service = home.spawn_as("serve", home.within("nohup", &[], &["serve"]));
    home.ready(&mut service).await;
    service.hang_up();
    tokio::time::sleep(Duration::from_millis(300)).await;
    home.get("/readyz").send().await.expect(200);
    assert!(service.is_running());
    let log = service.stop().await;
    assert!(log.contains("\"signal\":\"SIGTERM\""), "{log}");
}

#[tokio::test]
async fn the_port_that_is_free_is_the_one_that_is_said() {
    let home = Home::new(&[]);
    let port = free_port();
    let arguments = ["serve", "--host", "0.0.0.0", "--port", &port.to_string()];
    let mut service = home.spawn_as("serve", home.command(&arguments));
    let url = format!("http://127.0.0.1:{port}/dev/mailbox");
    service.wait_for_log(&url).await;
    service.wait_for_log(" ready").await;
    assert_eq!(reqwest::get(&url).await.unwrap().status(), 200);
    service.terminate();
    assert!(service.end().await.success());
}
