//! The places of connections, and which one is given up when they run short.
//!
//! The connection that has waited longest for its client is closed, of the client network with the
//! most connections: an address that takes all places loses them to those that come after it. A
//! connection waits for its client until a head is there in full, while a body is on its way, and
//! while it closes. A request that has come in full is answered, however short places are.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use crate::network::Network;

/// Connections that are closed at a time: to look for one takes as long as for several.
const EVICTED_AT_ONCE: usize = 32;
/// How long a connection that is closed may take to give its place back.
const LEAVING: Duration = Duration::from_millis(50);
/// How often the log tells of it.
const TOLD_EVERY: Duration = Duration::from_mins(1);

const BUSY: u64 = 0;
const EVICTED: u64 = u64::MAX;

/// What one connection shows to the others. A request writes to its own connection's alone, and
/// takes no lock.
pub struct Place {
    network: u128,
    pub is_over_cap: bool,
    start: Instant,
    /// In microseconds from `start` on, or one of the constants above.
    waiting_since: AtomicU64,
    must_linger: AtomicBool,
}

impl Place {
    /// From now on it is the client's turn, unless it was before.
    pub fn wait(&self, since: Instant) {
        let since = since.saturating_duration_since(self.start).as_micros();
        let since = u64::try_from(since).unwrap_or(EVICTED);
        self.swap(BUSY, since.clamp(BUSY + 1, EVICTED - 1));
    }

    /// From now on it is ours; `false` where the connection is being closed, and nothing more may
    /// be done for it.
    pub fn work(&self) -> bool {
        let state = self.waiting_since.load(Ordering::Acquire);
        state == BUSY || (state != EVICTED && self.swap(state, BUSY))
    }

    /// From now on the client may be sending what is not read as requests any more: before the
    /// connection is closed that has to be read away.
    pub fn linger(&self) {
        self.must_linger.store(true, Ordering::Release);
    }

    pub fn must_linger(&self) -> bool {
        self.must_linger.load(Ordering::Acquire)
    }

    fn waiting_since(&self) -> Option<u64> {
        let state = self.waiting_since.load(Ordering::Acquire);
        (state != BUSY && state != EVICTED).then_some(state)
    }

    fn swap(&self, from: u64, to: u64) -> bool {
        let swapped =
            self.waiting_since.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
        swapped.is_ok()
    }
}

/// A place that is taken, and the right to it.
pub struct Permit {
    pub place: Arc<Place>,
    _permit: Option<OwnedSemaphorePermit>,
}

/// All places.
pub struct Places {
    start: Instant,
    permits: Arc<Semaphore>,
    over_cap: Arc<Semaphore>,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    by_id: HashMap<u64, (Arc<Place>, AbortHandle)>,
    last_id: u64,
    /// Those that made room since the log last told of it.
    evicted: usize,
    told_at: Option<Instant>,
}

impl Places {
    /// So many places, and so many more beyond the cap.
    pub fn new(places: usize, over_cap: usize) -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            permits: Arc::new(Semaphore::new(places)),
            over_cap: Arc::new(Semaphore::new(over_cap)),
            taken: Mutex::default(),
        })
    }

    /// A place for a connection that has come: a free one, one that was waited in for longest, one
    /// beyond the cap, or the first that is given back.
    pub async fn take(&self, ip: IpAddr) -> Permit {
        loop {
            if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
                return self.permit(ip, false, Some(permit));
            }
            if self.evict(false) > 0 {
                let leaving = timeout(LEAVING, Arc::clone(&self.permits).acquire_owned()).await;
                if let Ok(Ok(permit)) = leaving {
                    return self.permit(ip, false, Some(permit));
                }
            }
            if let Ok(permit) = Arc::clone(&self.over_cap).try_acquire_owned() {
                return self.permit(ip, true, Some(permit));
            }
            self.evict(true);
            let (permits, over_cap) = (Arc::clone(&self.permits), Arc::clone(&self.over_cap));
            tokio::select! {
                biased;
                Ok(permit) = permits.acquire_owned() => return self.permit(ip, false, Some(permit)),
                Ok(permit) = over_cap.acquire_owned() => return self.permit(ip, true, Some(permit)),
                // By then one that was busy may wait.
                () = tokio::time::sleep(LEAVING) => {}
            }
        }
    }

    /// A place for a connection that cannot wait for one.
    pub fn squeeze_in(&self, ip: IpAddr) -> Permit {
        self.permit(ip, false, None)
    }

    fn permit(
        &self,
        ip: IpAddr,
        is_over_cap: bool,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Permit {
        let place = Place {
            network: Network::client(ip).number(),
            is_over_cap,
            start: self.start,
            waiting_since: AtomicU64::new(BUSY),
            must_linger: AtomicBool::new(false),
        };
        place.wait(Instant::now());
        Permit { place: Arc::new(place), _permit: permit }
    }

    /// Runs the connection in a task of its own, which ends where its place is needed.
    pub fn run(
        self: &Arc<Self>,
        permit: Permit,
        connection: impl Future<Output = ()> + Send + 'static,
    ) {
        // Held until it is listed: it takes itself off the list.
        let mut taken = self.taken();
        taken.last_id += 1;
        let id = taken.last_id;
        let place = Arc::clone(&permit.place);
        let leave = Leave { places: Arc::clone(self), id, _permit: permit };
        let task = tokio::spawn(async move {
            let _leave = leave;
            connection.await;
        });
        taken.by_id.insert(id, (place, task.abort_handle()));
    }

    /// Closes connections that wait, where it is not places that are short.
    pub fn make_room(&self) {
        self.evict(false);
    }

    /// Closes connections that wait; how many.
    fn evict(&self, is_over_cap: bool) -> usize {
        let mut taken = self.taken();
        let evicted = taken.evict(is_over_cap);
        taken.evicted += evicted;
        if evicted > 0 && taken.told_at.is_none_or(|at| at.elapsed() > TOLD_EVERY) {
            let (evicted, open) = (taken.evicted, taken.by_id.len());
            tracing::warn!(evicted, open, "listener: connections that waited made room for others");
            (taken.evicted, taken.told_at) = (0, Some(Instant::now()));
        }
        evicted
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn evict(&self, is_over_cap: bool) -> usize {
        let mut crowds = HashMap::<u128, (usize, Vec<_>)>::new();
        for (place, task) in self.by_id.values() {
            let (count, waiting) = crowds.entry(place.network).or_default();
            *count += 1;
            if let Some(since) = place.waiting_since()
                && place.is_over_cap == is_over_cap
            {
                waiting.push((since, place, task));
            }
        }
        let mut largest = BinaryHeap::new();
        for (network, (count, waiting)) in &mut crowds {
            // The one that has waited longest is the last.
            waiting.sort_unstable_by_key(|(since, ..)| Reverse(*since));
            largest.extend(waiting.last().map(|(since, ..)| (*count, Reverse(*since), *network)));
        }
        let mut evicted = 0;
        while evicted < EVICTED_AT_ONCE
            && let Some((count, _, network)) = largest.pop()
            && let Some((_, waiting)) = crowds.get_mut(&network)
            && let Some((since, place, task)) = waiting.pop()
        {
            // Not if a request has come since.
            if place.swap(since, EVICTED) {
                task.abort();
                evicted += 1;
            }
            largest.extend(waiting.last().map(|(since, ..)| (count - 1, Reverse(*since), network)));
        }
        evicted
    }
}

/// Takes a connection off the list.
struct Leave {
    places: Arc<Places>,
    id: u64,
    _permit: Permit,
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.places.taken().by_id.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn come(places: &Arc<Places>, ip: &str) -> Arc<Place> {
        let permit = places.take(ip.parse().expect("an address")).await;
        let place = Arc::clone(&permit.place);
        places.run(permit, std::future::pending());
        // Each comes at a time of its own.
        tokio::time::sleep(Duration::from_millis(1)).await;
        place
    }

    fn evicted(places: &[Arc<Place>]) -> Vec<usize> {
        let all = places.iter().enumerate();
        all.filter(|(_, place)| !place.work()).map(|(number, _)| number).collect()
    }

    #[tokio::test]
    async fn the_one_that_waited_longest_goes_of_the_network_with_the_most() {
        let places = Places::new(100, 2);
        let mut all = vec![come(&places, "2001:db8:0:2::1").await];
        for number in 1..100 {
            // The last 64 bits are the client's own to choose.
            all.push(come(&places, &format!("2001:db8:0:1::{number}")).await);
        }
        assert!(all[1].work() && all[40].work(), "nobody has to go yet");
        assert!(!come(&places, "2001:db8:0:2::1").await.is_over_cap);
        let expected: Vec<_> = (2..=EVICTED_AT_ONCE + 1).collect();
        assert_eq!(evicted(&all), expected);
    }

    #[tokio::test]
    async fn a_busy_connection_keeps_its_place_and_the_next_one_is_over_the_cap() {
        let places = Places::new(2, 1);
        let all = [come(&places, "192.0.2.1").await, come(&places, "192.0.2.1").await];
        assert!(all.iter().all(|place| place.work()));
        let beyond = come(&places, "192.0.2.1").await;
        assert!(beyond.is_over_cap);
        // Nor does one beyond the cap keep the next one from asking for health.
        let next = come(&places, "192.0.2.2").await;
        assert!(next.is_over_cap && !beyond.work());
        assert!(next.work());
        let last = tokio::spawn({
            let places = Arc::clone(&places);
            async move { come(&places, "192.0.2.3").await.is_over_cap }
        });
        tokio::time::sleep(3 * LEAVING).await;
        assert!(!last.is_finished(), "all are busy");
        all[1].wait(Instant::now());
        assert!(!last.await.expect("no panic"), "one of them waits");
        assert!(all[0].work() && !all[1].work());
    }

    #[tokio::test]
    async fn a_place_is_given_back_by_whichever_way_its_connection_ends() {
        let places = Places::new(1, 0);
        for _ in 0..3 {
            let permit = places.take(IpAddr::from([192, 0, 2, 1])).await;
            places.run(permit, std::future::ready(()));
        }
        let permit = places.take(IpAddr::from([192, 0, 2, 1])).await;
        places.run(permit, std::future::pending());
        come(&places, "192.0.2.2").await;
        assert_eq!(places.taken().by_id.len(), 1);
    }
}
