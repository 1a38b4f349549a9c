//! Who asks about which text, so that the same is asked only once.

use std::collections::HashMap;

use futures::future::{Shared, WeakShared};

use crate::pipeline::task::Task;
use crate::store::cache::Key;

/// Entries among which it is not worth looking for those that are done with.
const FEW: usize = 256;

/// The tasks that ask, by what the cache calls their texts.
#[derive(Debug)]
pub(super) struct Asked<T: Future = Task>
where
    T::Output: Clone,
{
    tasks: HashMap<Key, WeakShared<T>>,
    /// How many there may be before those that are done with leave.
    tidy_at: usize,
}

impl<T: Future> Default for Asked<T>
where
    T::Output: Clone,
{
    fn default() -> Self {
        Self {
            tasks: HashMap::new(),
            tidy_at: FEW,
        }
    }
}

impl<T: Future> Asked<T>
where
    T::Output: Clone,
{
    /// The task that asks about a text, as long as anybody waits for it.
    pub(super) fn get(&self, key: &Key) -> Option<Shared<T>> {
        self.tasks.get(key)?.upgrade()
    }

    /// Enters a task. Those that are done with leave when they may be half of all: until then each
    /// keeps some memory, though not its reply.
    pub(super) fn enter(&mut self, key: Key, task: &Shared<T>) {
        if self.tasks.len() >= self.tidy_at {
            self.tasks.retain(|_, task| task.upgrade().is_some());
            self.tidy_at = FEW.max(2 * self.tasks.len());
        }
        if let Some(task) = task.downgrade() {
            self.tasks.insert(key, task);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use std::future::{Pending, pending};

    fn key(number: u64) -> Key {
        let mut key = Key([0; 32]);
        key.0[..8].copy_from_slice(&number.to_be_bytes());
        key
    }

    #[test]
    fn what_nobody_waits_for_any_more_takes_no_memory() {
        let mut asked = Asked::<Pending<()>>::default();
        let waiting: Vec<_> = (0..1_000).map(|_| pending().shared()).collect();
        for (number, task) in (0..).zip(&waiting) {
            asked.enter(key(number), task);
        }
        for number in 1_000..100_000 {
            asked.enter(key(number), &pending().shared());
        }
        assert!(asked.tasks.len() <= 2_000, "{}", asked.tasks.len());
        assert!((0..1_000).all(|number| asked.get(&key(number)).is_some()));
        assert!((1_000..100_000).all(|number| asked.get(&key(number)).is_none()));
    }
}
