//! Whether what several clients were told can have happened one after another.
//!
//! Each call took effect at some moment between its beginning and its answer, if the service is
//! linearizable. The search is Wing's and Gong's, with Lowe's memory: it tries every call that may
//! come first, goes on from there, and never comes twice to the same calls done with the same state.

use std::collections::HashSet;
use std::hash::Hash;

use thiserror::Error;

/// Calls in a history at most: what has been done is a set of bits.
pub const CALLS_MAX: usize = 64;

/// What a service does if asked by one client at a time.
pub trait Model: Clone + Eq + Hash {
    /// A question or command.
    type Asked;
    /// What it is answered.
    type Answer: PartialEq;

    /// Does what is asked, and answers.
    fn ask(&mut self, asked: &Self::Asked) -> Self::Answer;
}

/// A call as a client saw it. Moments are numbers, each given to one event only.
#[derive(Clone, Debug)]
pub struct Call<Q, A> {
    /// What was asked.
    pub asked: Q,
    /// When it was.
    pub from: u64,
    /// What was answered, and when; none if the client did not wait for it.
    pub answered: Option<(A, u64)>,
}

/// Why there is no order.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Disorder {
    /// Whatever the order, somebody was told something else.
    #[error("no order of these calls gives these answers")]
    Impossible,
    /// It would take too long to find out.
    #[error("there are {got} calls, and no more than {CALLS_MAX} can be put in order")]
    TooMany {
        /// How many there are.
        got: usize,
    },
}

/// An order in which the calls can have happened, as their places in `calls`. Those without an
/// answer may be missing.
///
/// # Errors
/// [`Disorder`] if there is none.
pub fn order<M: Model>(
    model: &M,
    calls: &[Call<M::Asked, M::Answer>],
) -> Result<Vec<usize>, Disorder> {
    if calls.len() > CALLS_MAX {
        return Err(Disorder::TooMany { got: calls.len() });
    }
    let mut search = Search { calls, tried: HashSet::new(), order: Vec::new() };
    if search.goes_on(model, 0) { Ok(search.order) } else { Err(Disorder::Impossible) }
}

struct Search<'c, M: Model> {
    calls: &'c [Call<M::Asked, M::Answer>],
    /// Calls done and the state after them.
    tried: HashSet<(u64, M)>,
    order: Vec<usize>,
}

impl<M: Model> Search<'_, M> {
    /// Whether the rest can follow what is `done`.
    fn goes_on(&mut self, model: &M, done: u64) -> bool {
        let calls = self.calls;
        let rest = || calls.iter().enumerate().filter(|(place, _)| done & (1 << place) == 0);
        let answers = rest().filter_map(|(_, call)| call.answered.as_ref());
        // Whoever asked after that was answered can't have come before it.
        let Some(first) = answers.map(|(_, at)| *at).min() else { return true };
        if !self.tried.insert((done, model.clone())) {
            return false;
        }
        for (place, call) in rest().filter(|(_, call)| call.from < first) {
            let mut after = model.clone();
            let answer = after.ask(&call.asked);
            if call.answered.as_ref().is_some_and(|(told, _)| *told != answer) {
                continue;
            }
            self.order.push(place);
            if self.goes_on(&after, done | 1 << place) {
                return true;
            }
            self.order.pop();
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number that is read, and written if it is another.
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    struct Cell(u32);

    #[derive(Clone, Copy, Debug)]
    enum Ask {
        Read,
        Write(u32),
    }

    impl Model for Cell {
        type Asked = Ask;
        type Answer = u32;

        fn ask(&mut self, asked: &Ask) -> u32 {
            if let Ask::Write(number) = asked {
                self.0 = *number;
            }
            self.0
        }
    }

    fn call(asked: Ask, from: u64, answered: Option<(u32, u64)>) -> Call<Ask, u32> {
        Call { asked, from, answered }
    }

    fn write(number: u32, from: u64, to: u64) -> Call<Ask, u32> {
        call(Ask::Write(number), from, Some((number, to)))
    }

    fn read(number: u32, from: u64, to: u64) -> Call<Ask, u32> {
        call(Ask::Read, from, Some((number, to)))
    }

    #[test]
    fn an_order_is_found_wherever_there_is_one() {
        let all = |calls: &[Call<Ask, u32>]| order(&Cell(0), calls);
        assert_eq!(all(&[]), Ok(vec![]));
        assert_eq!(all(&[write(1, 0, 1), read(1, 2, 3)]), Ok(vec![0, 1]));
        // At once, each may come first.
        assert_eq!(all(&[write(1, 0, 3), read(0, 1, 2)]), Ok(vec![1, 0]));
        assert_eq!(all(&[write(1, 0, 3), read(1, 1, 2)]), Ok(vec![0, 1]));
        // Two who look at once while it changes need not see the same.
        assert!(all(&[write(1, 0, 9), read(0, 1, 4), read(1, 2, 3)]).is_ok());
        // What nobody waited for may have happened late, or not at all.
        let lost = call(Ask::Write(1), 0, None);
        assert_eq!(all(&[lost.clone(), read(0, 1, 2)]), Ok(vec![1]));
        assert_eq!(all(&[lost, read(0, 1, 2), read(1, 3, 4)]), Ok(vec![1, 0, 2]));
    }

    #[test]
    fn none_is_found_where_there_is_none() {
        let impossible = |calls: &[Call<Ask, u32>]| {
            assert_eq!(order(&Cell(0), calls), Err(Disorder::Impossible));
        };
        // Stale, from the future, and out of nowhere.
        impossible(&[write(1, 0, 1), read(0, 2, 3)]);
        impossible(&[read(1, 0, 1), write(1, 2, 3)]);
        impossible(&[write(1, 0, 3), read(2, 1, 2)]);
        // One who looks later must not see what was before.
        impossible(&[write(1, 0, 9), read(1, 1, 2), read(0, 3, 4)]);
        // Two orders at once.
        let two = [write(1, 0, 9), write(2, 1, 8)];
        let reads = [read(1, 10, 11), read(2, 12, 13)];
        impossible(&[two.as_slice(), &reads].concat());
    }

    /// Without a memory, the search would go through 14 factorial orders.
    #[test]
    fn calls_that_are_many_at_once_are_looked_through_soon() {
        let writes = |count| -> Vec<_> {
            (0..count).map(|n| write(n % 2, n.into(), 100 + u64::from(n))).collect()
        };
        let mut calls = writes(14);
        calls.push(read(7, 50, 99));
        assert_eq!(order(&Cell(0), &calls), Err(Disorder::Impossible));
        assert_eq!(order(&Cell(0), &writes(65)), Err(Disorder::TooMany { got: 65 }));
    }
}
