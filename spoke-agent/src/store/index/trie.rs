//! A map that is cheap to copy: a hash trie whose copies share all that is the same in both. The writer changes its own
//! copy while readers go on with the one that they have, so a reader sees one state and nobody waits.
//!
//! A node has 16 children, of which four bits of the hash choose one, the highest first. Entries stand in leaves of up to 32,
//! sorted by their hashes. Hashes are spread evenly, so where one stands is computed and not searched for: a
//! look touches two lines of memory behind the upper nodes, which all looks share. (A trie over hashes is Bagwell's, "Ideal
//! Hash Trees", 2001; instead of going down to single entries it ends in short sorted lists.)
//!
//! A change copies the nodes on the way to its entry, but for those that no other copy shares.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

/// Bits of the hash that one level uses.
const BITS: u32 = 4;
/// Children of a node.
const WAYS: usize = 1 << BITS;
/// Levels, after which the hash is used up.
const LEVELS: u32 = u64::BITS / BITS;
/// Entries of a leaf, unless the hash is used up.
const LEAF: usize = 32;
/// Entries of a node whose children are all leaves, up to which it becomes one leaf again. Well below [`LEAF`], so that
/// entries that come and go do not make and unmake a node each time.
const FEW: usize = LEAF / 2;

/// What the map is of: entries that know their names.
pub trait Entry: Clone {
    /// A name, borrowed.
    type Name<'a>: Hash + Copy;
    /// The name of this entry.
    fn name(&self) -> Self::Name<'_>;
    /// Whether this entry has that name.
    fn is(&self, name: Self::Name<'_>) -> bool;
}

/// The map.
#[derive(Debug, Clone)]
pub struct Trie<T, S = RandomState> {
    root: Node<T>,
    len: usize,
    hasher: S,
}

#[derive(Debug, Clone)]
enum Node<T> {
    Leaf(Arc<[Slot<T>]>),
    Ways(Arc<[Node<T>; WAYS]>),
}

#[derive(Debug, Clone)]
struct Slot<T> {
    hash: u64,
    entry: T,
}

impl<T> Default for Trie<T> {
    fn default() -> Self {
        Self::with_hasher(RandomState::new())
    }
}

impl<T, S> Trie<T, S> {
    /// An empty map.
    pub fn with_hasher(hasher: S) -> Self {
        Self {
            root: Node::Leaf(Arc::from([])),
            len: 0,
            hasher,
        }
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Calls `each` with every entry, in no order that means anything.
    pub fn for_each<'a>(&'a self, mut each: impl FnMut(&'a T)) {
        self.root.for_each(&mut |slot| each(&slot.entry));
    }
}

impl<T: Entry, S: BuildHasher> Trie<T, S> {
    /// A map of these entries at once. Their names must differ.
    pub fn of(entries: Vec<T>, hasher: S) -> Self {
        let len = entries.len();
        let hashed = entries.into_iter().map(|entry| Slot {
            hash: hasher.hash_one(entry.name()),
            entry,
        });
        let mut slots: Vec<Slot<T>> = hashed.collect();
        slots.sort_unstable_by_key(|slot| slot.hash);
        let root = Node::of(&mut slots.into_iter(), len, 0);
        Self { root, len, hasher }
    }

    /// The entry of this name.
    pub fn get(&self, name: T::Name<'_>) -> Option<&T> {
        self.find(self.hasher.hash_one(name), name)
    }

    fn find(&self, hash: u64, name: T::Name<'_>) -> Option<&T> {
        let (mut node, mut level) = (&self.root, 0);
        loop {
            match node {
                Node::Ways(ways) => (node, level) = (&ways[way(hash, level)], level + 1),
                Node::Leaf(slots) => {
                    let at = place(slots, hash, level, name).ok()?;
                    return slots.get(at).map(|slot| &slot.entry);
                }
            }
        }
    }

    /// Sets an entry. Returns the one of that name before.
    pub fn insert(&mut self, entry: T) -> Option<T> {
        let hash = self.hasher.hash_one(entry.name());
        let before = self.root.insert(Slot { hash, entry }, 0);
        self.len += usize::from(before.is_none());
        before
    }

    /// Removes the entry of this name, and returns it.
    pub fn remove(&mut self, name: T::Name<'_>) -> Option<T> {
        let hash = self.hasher.hash_one(name);
        // A name that is not there must not cost a copy of the way to it.
        self.find(hash, name)?;
        let removed = self.root.remove(hash, 0, name);
        self.len -= usize::from(removed.is_some());
        removed
    }
}

/// The child of a node at this level that a hash belongs to.
fn way(hash: u64, level: u32) -> usize {
    (hash >> (u64::BITS - BITS * (level + 1))) as usize % WAYS
}

/// Where the entry of this name stands in a leaf, or else where it would.
fn place<T: Entry>(
    slots: &[Slot<T>],
    hash: u64,
    level: u32,
    name: T::Name<'_>,
) -> Result<usize, usize> {
    // What the way to this leaf has not used, as a part of one, is the part of the leaf that stands before it.
    let unused = hash.checked_shl(BITS * level).unwrap_or(0) >> 32;
    let mut at = ((unused * slots.len() as u64) >> 32) as usize;
    while at > 0 && slots[at - 1].hash >= hash {
        at -= 1;
    }
    while let Some(slot) = slots.get(at)
        && slot.hash <= hash
    {
        if slot.hash == hash && slot.entry.is(name) {
            return Ok(at);
        }
        at += 1;
    }
    Err(at)
}

impl<T> Node<T> {
    fn for_each<'a>(&'a self, each: &mut impl FnMut(&'a Slot<T>)) {
        match self {
            Self::Leaf(slots) => slots.iter().for_each(each),
            Self::Ways(ways) => ways.iter().for_each(|node| node.for_each(each)),
        }
    }
}

impl<T: Entry> Node<T> {
    /// A node of the next `count` entries, which come sorted by hash and agree in the bits above this level.
    fn of(sorted: &mut std::vec::IntoIter<Slot<T>>, count: usize, level: u32) -> Self {
        if count <= LEAF || level == LEVELS {
            return Self::Leaf(sorted.take(count).collect());
        }
        let mut left = count;
        Self::Ways(Arc::new(std::array::from_fn(|at| {
            let next = &sorted.as_slice()[..left];
            let group = next.partition_point(|slot| way(slot.hash, level) == at);
            left -= group;
            Self::of(sorted, group, level + 1)
        })))
    }

    fn insert(&mut self, new: Slot<T>, level: u32) -> Option<T> {
        let slots = match self {
            Self::Ways(ways) => {
                let at = way(new.hash, level);
                return Arc::make_mut(ways)[at].insert(new, level + 1);
            }
            Self::Leaf(slots) => slots,
        };
        match place(slots, new.hash, level, new.entry.name()) {
            Ok(at) => {
                let before = &mut Arc::make_mut(slots)[at].entry;
                Some(std::mem::replace(before, new.entry))
            }
            Err(at) => {
                let mut all = Vec::with_capacity(slots.len() + 1);
                all.extend_from_slice(&slots[..at]);
                all.push(new);
                all.extend_from_slice(&slots[at..]);
                let count = all.len();
                *self = Self::of(&mut all.into_iter(), count, level);
                None
            }
        }
    }

    fn remove(&mut self, hash: u64, level: u32, name: T::Name<'_>) -> Option<T> {
        match self {
            Self::Ways(ways) => {
                let node = &mut Arc::make_mut(ways)[way(hash, level)];
                let removed = node.remove(hash, level + 1, name)?;
                if let Some(slots) = few(&**ways) {
                    *self = Self::Leaf(slots);
                }
                Some(removed)
            }
            Self::Leaf(slots) => {
                let at = place(slots, hash, level, name).ok()?;
                let removed = slots[at].entry.clone();
                *slots = [&slots[..at], &slots[at + 1..]].concat().into();
                Some(removed)
            }
        }
    }
}

/// The entries below these nodes as one leaf, if they are few.
fn few<T: Entry>(ways: &[Node<T>]) -> Option<Arc<[Slot<T>]>> {
    let leaves = ways.iter().map(|node| match node {
        Node::Leaf(slots) => Some(&**slots),
        Node::Ways(_) => None,
    });
    let leaves: Vec<&[Slot<T>]> = leaves.collect::<Option<_>>()?;
    let count: usize = leaves.iter().map(|slots| slots.len()).sum();
    (count <= FEW).then(|| leaves.concat().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use std::collections::BTreeMap;
    use std::hash::Hasher;

    #[derive(Debug, Clone, PartialEq)]
    struct Pair(u32, u64);

    impl Entry for Pair {
        type Name<'a> = u32;

        fn name(&self) -> u32 {
            self.0
        }

        fn is(&self, name: u32) -> bool {
            self.0 == name
        }
    }

    /// A hash of as many bits as it says, so that entries meet on every level.
    #[derive(Debug, Clone, Copy)]
    struct Weak {
        mask: u64,
    }

    struct WeakHasher {
        mask: u64,
        state: u64,
    }

    impl BuildHasher for Weak {
        type Hasher = WeakHasher;

        fn build_hasher(&self) -> WeakHasher {
            WeakHasher {
                mask: self.mask,
                state: 0,
            }
        }
    }

    impl Hasher for WeakHasher {
        fn write(&mut self, bytes: &[u8]) {
            for byte in bytes {
                self.state = (self.state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3_9e37);
            }
        }

        fn finish(&self) -> u64 {
            self.state & self.mask
        }
    }

    const MASKS: [u64; 5] = [u64::MAX, 0xf800_0000_0000_0000, 0x1f0, 0xf, 0];

    fn agrees(trie: &Trie<Pair, Weak>, model: &BTreeMap<u32, u64>) {
        assert_eq!(trie.len(), model.len());
        let mut all = BTreeMap::new();
        trie.for_each(|Pair(name, value)| assert_eq!(all.insert(*name, *value), None));
        assert_eq!(&all, model);
        for (name, value) in model {
            assert_eq!(trie.get(*name), Some(&Pair(*name, *value)));
        }
    }

    #[test]
    fn it_is_a_map_and_its_copies_stay_as_they_were() {
        for mask in MASKS {
            let mut random = StdRng::seed_from_u64(mask);
            let mut trie = Trie::with_hasher(Weak { mask });
            let mut model = BTreeMap::new();
            let mut kept = Vec::new();
            for step in 0..4_000_u64 {
                let name = random.random_range(0..150);
                match random.random_range(0..5) {
                    0 | 1 => {
                        let before = model.insert(name, step).map(|value| Pair(name, value));
                        assert_eq!(trie.insert(Pair(name, step)), before);
                    }
                    2 | 3 => {
                        let before = model.remove(&name).map(|value| Pair(name, value));
                        assert_eq!(trie.remove(name), before);
                    }
                    _ => {
                        let there = model.get(&name).map(|value| Pair(name, *value));
                        assert_eq!(trie.get(name), there.as_ref());
                    }
                }
                if step % 500 == 0 {
                    kept.push((trie.clone(), model.clone()));
                }
            }
            kept.push((trie, model));
            kept.iter().for_each(|(trie, model)| agrees(trie, model));
        }
    }

    #[test]
    fn made_at_once_it_is_the_same_map() {
        for mask in MASKS {
            for count in [0, 1, 2, 33, 1_000] {
                let model: BTreeMap<u32, u64> = (0..count).map(|n| (n, u64::from(n) * 7)).collect();
                let pairs = model.iter().map(|(name, value)| Pair(*name, *value));
                let mut trie = Trie::of(pairs.collect(), Weak { mask });
                agrees(&trie, &model);
                (0..count).for_each(|name| assert!(trie.remove(name).is_some()));
                assert!(trie.is_empty());
                assert!(matches!(trie.root, Node::Leaf(slots) if slots.is_empty()));
            }
        }
    }
}
