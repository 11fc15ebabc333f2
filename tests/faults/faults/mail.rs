//! What happens to the mail server.

use std::time::Duration;

use tokio::time::sleep;

use super::seconds;
use crate::harness::smtp_sink::Mode;
use crate::history::Invariant;
use crate::load::Load;
use crate::world::World;

pub async fn behave(world: &mut World, mode: Mode, long: Duration) {
    world.sink.behave(mode);
    sleep(long).await;
    mend(world);
}

pub async fn refuse(world: &mut World) {
    world.sink.behave(Mode::RefuseSender("530 5.7.0 Authentication required"));
    sleep(seconds(4)).await;
    world.sink.behave(Mode::RefuseContent("554 5.7.1 not now"));
    sleep(seconds(4)).await;
    mend(world);
}

fn mend(world: &World) {
    world.sink.behave(Mode::Accept);
    // Whoever waits for an answer that is not coming would wait on.
    world.sink.hang_up();
}

/// Letters wait until the operator names the certificate; none is sent to whoever cannot show a
/// good one.
pub async fn bad_certificate(world: &mut World, load: &Load) {
    sleep(seconds(6)).await;
    if world.sink.connections() == 0 {
        load.broken(Invariant::Letters, "the mail server was not tried");
    }
    let said = world.sink.commands();
    if said.iter().any(|command| command.starts_with("MAIL") || command.starts_with("AUTH")) {
        load.broken(Invariant::Letters, format!("told to whom it does not trust: {said:?}"));
    }
    let certificate = world.sink.certificate();
    world.homes[0].set("SSL_CERT_FILE", certificate.to_str().unwrap());
    world.roll(0).await;
}
