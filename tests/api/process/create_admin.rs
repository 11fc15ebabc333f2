//! `create-admin` at a terminal: each answer is checked when it is given, and asked for again.

use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::harness::home::Home;
use crate::harness::machine::note;
use crate::harness::person::PASSWORD;
use crate::harness::wait::eventually;

/// The command on a terminal of its own, which `script` gives it.
struct Terminal {
    child: Child,
    keyboard: ChildStdin,
    screen: Arc<Mutex<Vec<u8>>>,
    read: usize,
}

impl Terminal {
    fn start(home: &Home, arguments: &str) -> Option<Self> {
        if !Command::new("script").arg("--version").output().is_ok_and(|it| it.status.success()) {
            note("passed over: this machine has no script(1) that gives a terminal");
            return None;
        }
        let inner = home.command(&[]);
        let line = format!("{} create-admin {arguments}", inner.get_program().display());
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        script.current_dir(home.folder()).env_clear();
        script.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = script.spawn().unwrap();
        let (keyboard, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let screen = Arc::new(Mutex::new(Vec::new()));
        let shared = screen.clone();
        std::thread::spawn(move || {
            let mut piece = [0; 1024];
            while let Ok(length @ 1..) = output.read(&mut piece) {
                shared.lock().unwrap().extend_from_slice(&piece[..length]);
            }
        });
        Some(Self { child, keyboard, screen, read: 0 })
    }

    fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }

    /// Waits until the question is asked once more, and types the answer.
    async fn answer(&mut self, question: &str, answer: &str) {
        eventually(question, async || self.screen()[self.read..].contains(question)).await;
        self.read = self.screen().len();
        // A terminal that is about to hide what is typed drops what came before.
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        self.keyboard.write_all(format!("{answer}\n").as_bytes()).unwrap();
    }

    async fn end(mut self) -> (bool, String) {
        eventually("the command ends", async || self.child.try_wait().unwrap().is_some()).await;
        let status = self.child.wait().unwrap();
        (status.success(), self.screen())
    }
}

#[tokio::test]
async fn a_wrong_answer_is_told_at_once_and_asked_for_again_and_no_password_is_shown() {
    let (home, _) = Home::with_database(&[]).await;
    home.succeeds(&["create-admin", "--email", "boss@example.com", "--password-stdin"], PASSWORD)
        .await;
    let Some(mut terminal) = Terminal::start(&home, "") else { return };
    terminal.answer("E-mail address: ", "boss").await;
    terminal.answer("the e-mail address is not usable", "Boss@example.com").await;
    terminal.answer("somebody has registered this e-mail address", "boss@example.org").await;
    terminal.answer("Username (Enter for boss): ", "").await;
    terminal.answer("the username boss is taken: choose another one", "a b").await;
    terminal.answer("the username is not usable", "second").await;
    terminal.answer("Password: ", "hunter22").await;
    terminal.answer("the password is not usable", PASSWORD).await;
    terminal.answer("Once more: ", "another good password").await;
    terminal.answer("the two passwords differ", PASSWORD).await;
    terminal.answer("Once more: ", PASSWORD).await;
    let (is_good, screen) = terminal.end().await;
    assert!(is_good && screen.contains("Created the admin second."), "{screen}");
    for hidden in [PASSWORD, "hunter22", "another good password"] {
        assert!(!screen.contains(hidden), "{screen}");
    }
    let service = home.start().await;
    let admin = home.log_in("boss@example.org").send().await.expect(200);
    assert_eq!(
        (&admin["user"]["role"], &admin["user"]["username"]),
        (&"admin".into(), &"second".into())
    );
    service.stop().await;
}

#[tokio::test]
async fn a_flag_is_not_asked_again_and_an_answer_that_is_none_ends_it() {
    let (home, _) = Home::with_database(&[]).await;
    let Some(terminal) = Terminal::start(&home, "--email nobody") else { return };
    let (is_good, screen) = terminal.end().await;
    assert!(!is_good && screen.contains("--email: the e-mail address is not usable"), "{screen}");
    // Ctrl-D in an empty line.
    let mut terminal = Terminal::start(&home, "").unwrap();
    terminal.answer("E-mail address: ", "\x04").await;
    let (is_good, screen) = terminal.end().await;
    assert!(!is_good && screen.contains("the input has ended: no admin was made"), "{screen}");
    let mut terminal = Terminal::start(&home, "--email a@example.com --username ann").unwrap();
    terminal.answer("Password: ", "").await;
    let (is_good, screen) = terminal.end().await;
    assert!(!is_good && screen.contains("no password was given"), "{screen}");
}
