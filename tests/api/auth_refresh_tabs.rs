//! `POST /refresh` as browsers use it: several tabs with one storage, and a network that loses answers.

use chrono::TimeDelta;

use crate::support::{Answer, PASSWORD, Person, TestApp};

/// `TABS_RUNS` asks for more, `TABS_SEED` for another beginning.
const RUNS: u64 = 200;
const SEED: u64 = 1;

/// `SplitMix64`: the same seed is the same story.
struct Dice(u64);

impl Dice {
    /// From 0 to `sides` - 1.
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// What the tabs of one browser share, and what each still has in memory.
struct Browser {
    storage: Person,
    tabs: Vec<Person>,
}

impl Browser {
    /// One round: some tabs find at the same moment that they need a new pair; within 19 seconds each of them asks,
    /// once or twice, alone or together with others. Any answer may be lost. Whether one has arrived.
    async fn round(&mut self, dice: &mut Dice) -> bool {
        let app = self.storage.app.clone();
        // Read by all of them at the start: this is what makes them race.
        let token = self.storage.refresh_token().to_owned();
        let mut seconds_left = 19;
        let mut arrived = false;
        for _ in 0..=dice.roll(3) {
            let at_once = 1 + dice.roll(3);
            let calls = (0..at_once).map(|_| self.storage.refresh_with(&token));
            let answers = futures_util::future::join_all(calls).await;
            for answer in answers {
                // What was asked but not received counts as well.
                answer.assert_ok(200);
                if dice.roll(100) < 40 {
                    continue;
                }
                self.receive(&answer, dice).await;
                arrived = true;
            }
            let pause = dice.roll(seconds_left + 1);
            seconds_left -= pause;
            app.clock.advance(TimeDelta::seconds(i64::try_from(pause).unwrap()));
        }
        arrived
    }

    /// A tab keeps the pair, and perhaps uses it at once.
    async fn receive(&mut self, answer: &Answer, dice: &mut Dice) {
        self.storage.access = answer.json["token"].as_str().map(str::to_owned);
        self.storage.refresh = answer.json["refresh_token"].as_str().map(str::to_owned);
        let tab = usize::try_from(dice.roll(self.tabs.len() as u64)).unwrap();
        self.tabs[tab].access.clone_from(&self.storage.access);
        if dice.roll(2) == 0 {
            self.storage.get("/api/v1/users/me").await.assert_ok(200);
        }
    }

    /// Each tab goes on with the access token that it has in memory, of whichever generation.
    async fn browse(&self) {
        for tab in &self.tabs {
            let answer = tab.get("/api/v1/users/me").await;
            if answer.status != 200 {
                answer.assert_error(401, "token_expired");
            }
        }
    }
}

async fn one_story(app: &TestApp, seed: u64) {
    let mut dice = Dice(seed);
    let storage = app.log_in("ada", PASSWORD).await;
    let tabs = vec![storage.clone(); 1 + usize::try_from(dice.roll(4)).unwrap()];
    let mut browser = Browser { storage, tabs };
    let day = TimeDelta::days(1);
    let start = app.clock.now();
    // Until when the stored token is good, and its successor. A successor asked for again is the same token: its 30
    // days count from the first time.
    let (mut good_until, mut successor_until) = (start + day * 30, None);
    for _ in 0..6 {
        let pause = match dice.roll(5) {
            0 => TimeDelta::zero(),
            1 => TimeDelta::seconds(1) * i32::try_from(dice.roll(60)).unwrap(),
            2 => TimeDelta::minutes(1) * i32::try_from(dice.roll(60)).unwrap(),
            3 => TimeDelta::hours(1) * i32::try_from(dice.roll(48)).unwrap(),
            _ => day * i32::try_from(dice.roll(29)).unwrap(),
        };
        let then = app.clock.now() + pause + TimeDelta::minutes(1);
        if then < good_until && then < start + day * 90 {
            app.clock.advance(pause);
        }
        browser.browse().await;
        let until = *successor_until.get_or_insert(app.clock.now() + day * 30);
        if browser.round(&mut dice).await {
            (good_until, successor_until) = (until, None);
        }
    }
    browser.storage.refresh().await.assert_ok(200);
    browser.storage.get("/api/v1/users/me").await.assert_ok(200);
}

#[tokio::test]
async fn tabs_and_lost_answers_never_log_their_owner_out() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |value| value.parse().unwrap())
    };
    let (runs, seed) = (number("TABS_RUNS", RUNS), number("TABS_SEED", SEED));
    let app = TestApp::start().await;
    app.newcomer("ada").await;
    for seed in seed..seed + runs {
        // Seen when the test fails, and only then.
        println!("TABS_SEED={seed}");
        one_story(&app, seed).await;
    }
}
