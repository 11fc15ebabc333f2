//! Of the hasher: its answers, and who is refused.

use super::*;

const SOMEBODY: Requester = Requester { key: 1, is_known: false };

fn long_ago(limit: Duration) -> Instant {
    Instant::now().checked_sub(limit * 2).expect("the machine runs longer")
}

fn cheap() -> Params {
    Params::new(8, 1, 1, Some(OUTPUT_BYTES)).expect("valid")
}

#[tokio::test]
async fn a_hash_matches_its_password_alone_and_names_its_parameters() {
    let hasher = Hasher::new(cheap(), 1);
    let hash = hasher.hash(SOMEBODY, Password::claimed("correct horse")).await.expect("not busy");
    let phc = hash.expose_secret();
    assert!(phc.starts_with("$argon2id$v=19$m=8,t=1,p=1$"), "{phc}");
    assert!(!format!("{hash:?}").contains(phc));
    let verify = async |password: &str, hash: Option<&SecretString>| {
        hasher
            .verify(SOMEBODY, Password::claimed(password), hash, &Arc::default())
            .await
            .expect("not busy")
    };
    assert_eq!(
        verify("correct horse", Some(&hash)).await,
        Verdict { matches: true, outdated: false }
    );
    assert!(!verify("correct horsf", Some(&hash)).await.matches);
    assert!(!verify("correct horse", None).await.matches);
    for broken in
        ["", "!", "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ", "$2b$12$abcdefghijklmnopqrstuv"]
    {
        assert!(!verify("correct horse", Some(&broken.into())).await.matches, "{broken}");
    }
}

#[tokio::test]
async fn a_hash_made_with_other_parameters_still_matches_and_is_called_outdated() {
    let old = Hasher::new(cheap(), 1)
        .hash(SOMEBODY, Password::claimed("correct horse"))
        .await
        .expect("not busy");
    let hasher = Hasher::new(Params::new(16, 1, 1, Some(OUTPUT_BYTES)).expect("valid"), 1);
    let verdict = hasher
        .verify(SOMEBODY, Password::claimed("correct horse"), Some(&old), &Arc::default())
        .await
        .expect("not busy");
    assert_eq!(verdict, Verdict { matches: true, outdated: true });
}

#[tokio::test]
async fn who_waited_too_long_is_told_so_instead_of_being_served() {
    let queue = FairQueue::new(1);
    let (answer, result) = oneshot::channel();
    let job = Job::Hash(Password::claimed("correct horse"), answer);
    let since = long_ago(MAX_WAIT);
    queue.push(SOMEBODY, Waiting { since, job }).expect("room");
    queue.close();
    work(&queue, &Load::default(), &cheap());
    assert!(result.await.is_err());
}

#[tokio::test]
async fn a_job_is_done_whatever_became_of_the_others() {
    let queue = FairQueue::new(4);
    let mut results = Vec::new();
    for since in [Instant::now()].into_iter().chain([long_ago(MAX_WAIT); 3]) {
        let (answer, result) = oneshot::channel();
        let job = Job::Hash(Password::claimed("correct horse"), answer);
        queue.push(SOMEBODY, Waiting { since, job }).expect("room");
        results.push(result);
    }
    queue.close();
    work(&queue, &Load::default(), &cheap());
    assert!(results.remove(0).await.is_ok());
    assert!(results.remove(0).await.is_err());
}

#[test]
fn an_engine_keeps_its_memory_between_jobs_and_gives_it_back_when_idle() {
    let queue = FairQueue::new(4);
    let mut engine = Engine::new(&cheap());
    let password = Password::claimed("correct horse");
    engine.compute(&cheap(), &password, &[7; 16]).expect("memory");
    queue.push(SOMEBODY, ()).expect("room");
    assert_eq!(next_job(&queue, &mut engine), Some(()));
    assert!(engine.has_memory(), "for the next job");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| next_job(&queue, &mut engine));
        std::thread::sleep(IDLE_TIMEOUT * 3);
        queue.close();
        assert_eq!(waiting.join().expect("no panic"), None);
    });
    assert!(!engine.has_memory(), "no job came");
    assert!(engine.compute(&cheap(), &password, &[7; 16]).is_some(), "and takes it again");
}

#[tokio::test]
async fn a_full_queue_says_so_at_once() {
    let hasher = Hasher::new(Params::new(1024, 2, 1, Some(OUTPUT_BYTES)).expect("valid"), 1);
    let calls: Vec<_> = (0..QUEUE_PER_THREAD + 20)
        .map(|_| {
            let hasher = hasher.clone();
            tokio::spawn(async move {
                hasher.verify(SOMEBODY, Password::claimed("x"), None, &Arc::default()).await
            })
        })
        .collect();
    let mut busy = 0;
    for call in calls {
        busy += usize::from(call.await.expect("no panic") == Err(Busy));
    }
    assert!((1..=20).contains(&busy), "{busy}");
}
