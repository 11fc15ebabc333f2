//! A Postfix that takes letters for example.com, as strict as an operator may make one: TLS and a
//! login, and every usual restriction.

use std::fs;
use std::io::Write;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::machine::{free_port, note, open_folder};
use super::wait::eventually;

/// As a password manager might make it; it stands in `SMTP_URL` as it is.
pub const PASSWORD: &str = "p@ss/w#rd?tls=100%:";

/// Ends Postfix when the tests end, however they do: the first argument is where its pid is.
const SUPERVISOR: &str =
    r#"exec 3<&0; pid=$1; shift; "$@" </dev/null 3<&- & read -r _ <&3; kill "$(cat "$pid")"; wait"#;

/// Who letters are kept as: `virtual` delivers to no file of root's.
const NOBODY: u32 = 65_534;

pub struct Postfix {
    supervisor: Child,
    port: u16,
    folder: TempDir,
}

impl Postfix {
    /// `None` where there is no such program, or nobody who may run it: it starts as root alone. Where
    /// all checks have to run (`CI`), a missing program is a failure.
    pub async fn start() -> Option<Self> {
        let programs = ["/usr/sbin/postfix", "/usr/sbin/saslpasswd2"];
        if !programs.iter().all(|program| Path::new(program).exists()) {
            assert!(std::env::var_os("CI").is_none(), "postfix and sasl2-bin are not installed");
            note("left out: postfix and sasl2-bin are not installed");
            return None;
        }
        if !rustix::process::getuid().is_root() {
            note("left out: only root may start Postfix");
            return None;
        }
        let (folder, port) = (open_folder(), free_port());
        write_settings(folder.path(), port);
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SUPERVISOR, "postfix"]).arg(folder.path().join("queue/pid/master.pid"));
        command.args(["/usr/sbin/postfix", "-c"]).arg(folder.path().join("etc")).arg("start-fg");
        command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let postfix = Self { supervisor: command.spawn().unwrap(), port, folder };
        eventually("Postfix listens", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
        Some(postfix)
    }

    /// The `SMTP_URL` for it, password and all.
    pub fn url(&self) -> String {
        format!("smtp://doorward@example.com:{PASSWORD}@localhost:{}?tls=required", self.port)
    }

    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("etc/certificate.pem")
    }

    /// What lies in the mailbox that all addresses lead to.
    pub fn letters(&self) -> Vec<String> {
        let new = fs::read_dir(self.folder.path().join("mail/inbox/new"));
        let files = new.into_iter().flatten().map(|entry| entry.unwrap().path());
        files.map(|file| fs::read_to_string(file).unwrap()).collect()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log/mail")).unwrap_or_default()
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        let _ = self.supervisor.wait();
        if std::thread::panicking() {
            note(&format!("Postfix:\n{}", self.log()));
        }
    }
}

fn write_settings(folder: &Path, port: u16) {
    for name in ["etc/sasl", "data", "queue", "mail", "log"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    let (etc, path) = (folder.join("etc"), folder.display());
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(etc.join("certificate.pem"), own.cert.pem()).unwrap();
    fs::write(etc.join("key.pem"), own.signing_key.serialize_pem()).unwrap();
    fs::write(etc.join("main.cf"), SETTINGS.replace("FOLDER", &path.to_string())).unwrap();
    fs::write(etc.join("master.cf"), format!("127.0.0.1:{port} inet n - n - - smtpd\n{SERVICES}"))
        .unwrap();
    let users = etc.join("sasl/users");
    let login = format!(
        "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: {}\nmech_list: PLAIN LOGIN\n",
        users.display()
    );
    fs::write(etc.join("sasl/smtpd.conf"), login).unwrap();
    let mut command = Command::new("/usr/sbin/saslpasswd2");
    command.args(["-p", "-c", "-u", "example.com", "-f"]).arg(&users).arg("doorward");
    let mut adding = command.stdin(Stdio::piped()).spawn().unwrap();
    adding.stdin.take().unwrap().write_all(PASSWORD.as_bytes()).unwrap();
    assert!(adding.wait().unwrap().success());
    let (uid, gid) = account("postfix");
    chown(folder.join("data"), Some(uid), None).unwrap();
    // It is for its group to read, as it was made.
    chown(&users, None, Some(gid)).unwrap();
    chown(folder.join("mail"), Some(NOBODY), Some(NOBODY)).unwrap();
}

/// Its numbers as a user and as a group.
fn account(name: &str) -> (u32, u32) {
    let accounts = fs::read_to_string("/etc/passwd").unwrap();
    let mut lines = accounts.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let fields = lines.find(|fields| fields[0] == name).unwrap();
    (fields[2].parse().unwrap(), fields[3].parse().unwrap())
}

const SETTINGS: &str = "\
compatibility_level = 3.6
queue_directory = FOLDER/queue
data_directory = FOLDER/data
maillog_file = FOLDER/log/mail
maillog_file_prefixes = FOLDER/log
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = mail.example.com
mydestination =
# Nobody is let in for where they are.
mynetworks = 192.0.2.1/32
alias_maps =
alias_database =
local_recipient_maps =
virtual_mailbox_domains = example.com
virtual_mailbox_base = FOLDER/mail
virtual_mailbox_maps = static:inbox/
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
virtual_minimum_uid = 1

smtpd_helo_required = yes
disable_vrfy_command = yes
strict_rfc821_envelopes = yes
strict_mime_encoding_domain = yes
smtpd_delay_reject = no
smtpd_forbid_bare_newline = yes
smtpd_client_restrictions = reject_unauth_pipelining
smtpd_helo_restrictions = reject_unauth_pipelining, reject_invalid_helo_hostname, reject_non_fqdn_helo_hostname
smtpd_sender_restrictions = reject_unauth_pipelining, reject_non_fqdn_sender
smtpd_recipient_restrictions = reject_unauth_pipelining, reject_non_fqdn_recipient
smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_data_restrictions = reject_unauth_pipelining, reject_multi_recipient_bounce
smtpd_end_of_data_restrictions = reject_unauth_pipelining

smtpd_tls_security_level = encrypt
smtpd_tls_auth_only = yes
smtpd_tls_cert_file = FOLDER/etc/certificate.pem
smtpd_tls_key_file = FOLDER/etc/key.pem
smtpd_tls_mandatory_protocols = >=TLSv1.2
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = cyrus
smtpd_sasl_path = smtpd
cyrus_sasl_config_path = FOLDER/etc/sasl
smtpd_sasl_local_domain = example.com
smtpd_sasl_security_options = noanonymous
";

const SERVICES: &str = "\
postlog unix-dgram n - n - 1 postlogd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
tlsmgr unix - - n 1000? 1 tlsmgr
anvil unix - - n - 1 anvil
error unix - - n - - error
retry unix - - n - - error
proxymap unix - - n - - proxymap
virtual unix - n n - - virtual
";
