//! What one cluster is to its clients, if they come one at a time.

use std::fmt;

use xlreg_core::Refusal;

use crate::linear::Model;

/// A cluster of one name, or that there is none yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cluster(Option<Made>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Made {
    size: u32,
    /// By rank: who holds it, and whether it is there.
    ranks: Vec<(usize, bool)>,
}

/// Which wire a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// TLS and gRPC.
    Modern,
    /// The old wire in its dialect 1.8.
    Old18,
    /// And in 1.9.
    Old19,
}

/// What a client asks, by which door. Members are numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Make it, for so many.
    Create(Door, u32),
    /// Let this member in.
    Join(Door, usize),
    /// Let it go.
    Leave(usize),
    /// Who is there?
    Show(Door),
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// There is one now, for so many.
    Created(u32),
    /// There is another one, for so many.
    Differs(u32),
    /// The member is in it.
    Joined,
    /// The member is not there any more.
    Left,
    /// For so many; and who is there, rank by rank.
    Shown(u32, Vec<(usize, usize)>),
    /// No, and why.
    Refused(String),
}

impl Model for Cluster {
    type Asked = Asked;
    type Answer = Answer;

    fn ask(&mut self, asked: &Asked) -> Answer {
        match (&mut self.0, asked) {
            (none @ None, Asked::Create(_, size)) => {
                *none = Some(Made { size: *size, ranks: Vec::new() });
                Answer::Created(*size)
            }
            (Some(made), Asked::Create(Door::Modern, size)) if made.size != *size => {
                Answer::Differs(made.size)
            }
            // The old wire gives whatever cluster has the name.
            (Some(made), Asked::Create(..)) => Answer::Created(made.size),
            (None, _) => refused(Refusal::UnknownClusterName),
            (Some(made), Asked::Join(_, who)) => made.join(*who),
            (Some(made), Asked::Leave(who)) => made.leave(*who),
            (Some(made), Asked::Show(_)) => {
                let ranks = made.ranks.iter().enumerate();
                let there = ranks.filter(|(_, (_, there))| *there);
                Answer::Shown(made.size, there.map(|(rank, (who, _))| (rank, *who)).collect())
            }
        }
    }
}

impl Made {
    fn join(&mut self, member: usize) -> Answer {
        if let Some((_, there)) = self.ranks.iter_mut().find(|(who, _)| *who == member) {
            *there = true;
        } else if self.ranks.len() < self.size as usize {
            self.ranks.push((member, true));
        } else {
            return refused(Refusal::ClusterFull { size: self.size });
        }
        Answer::Joined
    }

    fn leave(&mut self, member: usize) -> Answer {
        match self.ranks.iter_mut().find(|(who, _)| *who == member) {
            Some((_, there)) => {
                *there = false;
                Answer::Left
            }
            None => refused(Refusal::NotAMember),
        }
    }
}

fn refused(refusal: Refusal) -> Answer {
    Answer::Refused(refusal.to_string())
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(door, size) => write!(f, "{door:?}: create for {size}"),
            Self::Join(door, who) => write!(f, "{door:?}: m{who} joins"),
            Self::Leave(who) => write!(f, "{:?}: m{who} leaves", Door::Modern),
            Self::Show(door) => write!(f, "{door:?}: show"),
        }
    }
}
