//! A bounded queue for work that a stranger can ask for.
//!
//! Fair by client: those that wait take turns, however many jobs each has, and when it is full, the
//! newest job of the client with the most gives way. Clients who have proven themselves before have
//! three of four turns and places, so that a crowd of strangers does not keep them waiting; the
//! fourth is for strangers, so that no client with an account can shut all others out.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// For whom the work is done.
#[derive(Clone, Copy, Debug)]
pub struct Requester {
    /// The same for all jobs of a client: from their address.
    pub key: u128,
    /// Whether they have proven before who they are.
    pub is_known: bool,
}

/// One in this many turns, and one in this many places, is for strangers if there are any.
const STRANGERS_PART: usize = 4;

/// There is no room: try again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Nothing was queued for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idle;

pub struct FairQueue<T> {
    capacity: usize,
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    known: Lane<T>,
    strangers: Lane<T>,
    turn: usize,
    is_closed: bool,
}

impl<T> FairQueue<T> {
    pub fn new(capacity: usize) -> Self {
        let (known, strangers) = (Lane::default(), Lane::default());
        let state = State { known, strangers, turn: 0, is_closed: false };
        Self { capacity, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Whether `push` would find room now.
    pub fn has_room(&self, requester: Requester) -> bool {
        self.lock().has_room(requester, self.capacity)
    }

    /// Whether `push` would find room now for the client `key`, known or not.
    pub fn has_room_for_either(&self, key: u128) -> bool {
        let state = self.lock();
        [true, false]
            .into_iter()
            .any(|is_known| state.has_room(Requester { key, is_known }, self.capacity))
    }

    /// Queues `job`. One that gives way to it is dropped.
    pub fn push(&self, requester: Requester, job: T) -> Result<(), Full> {
        let mut state = self.lock();
        if state.known.length + state.strangers.length >= self.capacity {
            state.make_room_for(requester, self.capacity / STRANGERS_PART).ok_or(Full)?;
        }
        state.lane(requester.is_known).push(requester.key, job);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Waits for something to do; `None` once the queue is closed and empty.
    pub fn pop(&self) -> Option<T> {
        let state = self.changed.wait_while(self.lock(), |state| state.is_idle());
        state.unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// As [`FairQueue::pop`], but for `timeout` at most.
    pub fn pop_within(&self, timeout: Duration) -> Result<Option<T>, Idle> {
        let waited = self.changed.wait_timeout_while(self.lock(), timeout, |state| state.is_idle());
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.is_idle() { Err(Idle) } else { Ok(state.pop()) }
    }

    /// How many jobs wait: known clients' and strangers'.
    pub fn waiting(&self) -> (usize, usize) {
        let state = self.lock();
        (state.known.length, state.strangers.length)
    }

    pub fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    fn lane(&mut self, is_known: bool) -> &mut Lane<T> {
        if is_known { &mut self.known } else { &mut self.strangers }
    }

    fn is_idle(&self) -> bool {
        self.known.length + self.strangers.length == 0 && !self.is_closed
    }

    fn has_room(&self, requester: Requester, capacity: usize) -> bool {
        if self.known.length + self.strangers.length < capacity {
            return true;
        }
        let (is_known, limit) = self.who_gives_way(requester, capacity / STRANGERS_PART);
        let lane = if is_known { &self.known } else { &self.strangers };
        lane.waiting.values().any(|jobs| jobs.len() > limit)
    }

    fn pop(&mut self) -> Option<T> {
        let turn = (self.turn + 1) % STRANGERS_PART;
        let job = if turn == 0 {
            self.strangers.pop().or_else(|| self.known.pop())
        } else {
            self.known.pop().or_else(|| self.strangers.pop())
        }?;
        // A thread that finds no job takes no turn.
        self.turn = turn;
        Some(job)
    }

    /// `None` if no job has to give way to this requester. `reserved`: places that known clients
    /// cannot take from strangers.
    fn make_room_for(&mut self, requester: Requester, reserved: usize) -> Option<T> {
        let (is_known, limit) = self.who_gives_way(requester, reserved);
        self.lane(is_known).drop_from_longest(limit)
    }

    /// The lane that gives way, and above how many jobs a client there does.
    fn who_gives_way(&self, requester: Requester, reserved: usize) -> (bool, usize) {
        if requester.is_known && self.strangers.length > reserved {
            return (false, 0);
        }
        if !requester.is_known && self.strangers.length < reserved {
            return (true, 0);
        }
        let lane = if requester.is_known { &self.known } else { &self.strangers };
        let own = lane.waiting.get(&requester.key).map_or(0, VecDeque::len);
        // Its own count with this job: else two clients would displace each other for ever.
        (requester.is_known, own + 1)
    }
}

struct Lane<T> {
    waiting: HashMap<u128, VecDeque<T>>,
    /// Each client that waits, once.
    turns: VecDeque<u128>,
    length: usize,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self { waiting: HashMap::new(), turns: VecDeque::new(), length: 0 }
    }
}

impl<T> Lane<T> {
    fn push(&mut self, key: u128, job: T) {
        let jobs = self.waiting.entry(key).or_default();
        if jobs.is_empty() {
            self.turns.push_back(key);
        }
        jobs.push_back(job);
        self.length += 1;
    }

    fn pop(&mut self) -> Option<T> {
        let key = self.turns.pop_front()?;
        let jobs = self.waiting.get_mut(&key)?;
        let job = jobs.pop_front();
        if jobs.is_empty() {
            self.waiting.remove(&key);
        } else {
            self.turns.push_back(key);
        }
        self.length -= 1;
        job
    }

    /// Takes back the newest job of the client with the most, if it has more than `limit`.
    fn drop_from_longest(&mut self, limit: usize) -> Option<T> {
        let (&key, jobs) = self.waiting.iter_mut().max_by_key(|(_, jobs)| jobs.len())?;
        if jobs.len() <= limit {
            return None;
        }
        let job = jobs.pop_back();
        if jobs.is_empty() {
            self.waiting.remove(&key);
            self.turns.retain(|turn| *turn != key);
        }
        self.length -= 1;
        job
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stranger(key: u128) -> Requester {
        Requester { key, is_known: false }
    }

    fn known(key: u128) -> Requester {
        Requester { key, is_known: true }
    }

    /// All that waits, in its order.
    fn drain(queue: &FairQueue<&'static str>) -> Vec<&'static str> {
        queue.close();
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn clients_take_turns_however_much_each_asks_for() {
        let queue = FairQueue::new(10);
        for job in ["a1", "a2", "a3"] {
            queue.push(stranger(1), job).expect("room");
        }
        queue.push(stranger(2), "b1").expect("room");
        queue.push(stranger(3), "c1").expect("room");
        assert_eq!(drain(&queue), ["a1", "b1", "c1", "a2", "a3"]);
    }

    #[test]
    fn who_is_known_goes_first_and_leaves_every_fourth_turn_to_strangers() {
        let queue = FairQueue::new(10);
        for job in ["s1", "s2"] {
            queue.push(stranger(1), job).expect("room");
        }
        for job in ["k1", "k2", "k3", "k4", "k5"] {
            queue.push(known(2), job).expect("room");
        }
        assert_eq!(drain(&queue), ["k1", "k2", "k3", "s1", "k4", "k5", "s2"]);
    }

    #[test]
    fn a_full_queue_makes_room_at_the_cost_of_whoever_has_the_most_in_it() {
        let queue = FairQueue::new(3);
        for job in ["a1", "a2", "a3"] {
            queue.push(stranger(1), job).expect("room");
        }
        assert_eq!(queue.push(stranger(1), "a4"), Err(Full), "nobody takes their own place");
        queue.push(stranger(2), "b1").expect("a3 gives way");
        assert_eq!(queue.push(stranger(2), "b2"), Err(Full), "two each would be no better");
        assert_eq!(drain(&queue), ["a1", "b1", "a2"]);
    }

    #[test]
    fn neither_those_who_are_known_nor_strangers_can_take_every_place() {
        let jobs = ["1", "2", "3", "4", "5", "6", "7", "8"];
        let queue = FairQueue::new(8);
        for job in jobs {
            queue.push(stranger(1), job).expect("room");
        }
        let requester = |number: usize| known(number as u128);
        let taken = (0..8).filter(|number| queue.push(requester(*number), "known").is_ok()).count();
        assert_eq!(taken, 6, "a quarter stays the strangers'");
        assert_eq!(drain(&queue).iter().filter(|job| **job != "known").count(), 2);

        let queue = FairQueue::new(8);
        for number in 0..8 {
            queue.push(requester(number), "known").expect("room");
        }
        let taken = (0..8).filter(|key| queue.push(stranger(*key), "stranger").is_ok()).count();
        assert_eq!(taken, 2, "and no more than that");
    }

    #[test]
    fn a_client_is_refused_unseen_only_where_known_or_not_it_finds_no_room() {
        let queue_with = |known_jobs: u128, strangers_jobs: u128| {
            let queue = FairQueue::new(8);
            for number in 0..known_jobs {
                queue.push(known(number), "known").expect("room");
            }
            for number in 0..strangers_jobs {
                queue.push(stranger(number), "stranger").expect("room");
            }
            queue
        };
        assert!(queue_with(5, 2).has_room_for_either(9), "a place is free");
        assert!(queue_with(8, 0).has_room_for_either(9), "a stranger has a quarter");
        assert!(queue_with(0, 8).has_room_for_either(9), "a known client has three quarters");
        let full = queue_with(6, 2);
        assert!(!full.has_room_for_either(9), "each has its share");
        assert!(
            full.push(known(9), "known").is_err() && full.push(stranger(9), "stranger").is_err()
        );
        full.pop().expect("a job");
        assert!(full.has_room_for_either(9));
    }

    #[test]
    fn a_thread_hears_of_a_job_in_time_and_of_the_lack_of_one() {
        let queue = FairQueue::new(8);
        assert_eq!(queue.pop_within(Duration::from_millis(1)), Err(Idle));
        std::thread::scope(|scope| {
            let popping = scope.spawn(|| queue.pop_within(Duration::from_mins(1)));
            queue.push(known(1), "k1").expect("room");
            assert_eq!(popping.join().expect("no panic"), Ok(Some("k1")));
        });
        queue.close();
        assert_eq!(queue.pop_within(Duration::from_mins(1)), Ok(None));
    }

    #[test]
    fn nothing_that_was_let_in_is_lost_or_done_twice() {
        let queue = FairQueue::new(64);
        let (mut done, mut refused) = (0, 0);
        for number in 0..10_000_u32 {
            let requester = Requester { key: (number % 7).into(), is_known: number % 3 == 0 };
            let has_room = queue.has_room(requester);
            assert_eq!(queue.push(requester, number).is_ok(), has_room);
            refused += u32::from(!has_room);
            if number % 2 == 0 {
                done += u32::from(queue.pop().is_some());
            }
        }
        let state = queue.lock();
        let waiting = [&state.known, &state.strangers];
        let count = |lane: &Lane<u32>| lane.waiting.values().map(VecDeque::len).sum::<usize>();
        for lane in waiting {
            assert_eq!(count(lane), lane.length);
            assert_eq!(lane.turns.len(), lane.waiting.len());
        }
        assert_eq!(waiting[0].length + waiting[1].length, 64);
        assert!(done == 5_000 && refused > 0);
    }
}
