//! A value for each region, kept once where it is the same everywhere. Of most tenants it is, and a writer remembers some of
//! every tenant there is. Pure.

/// A value for each region, in the order of [`super::Writer::regions`].
#[derive(Debug, Clone)]
pub enum Regional<T> {
    /// The same in all of them.
    Everywhere(T),
    /// One for each.
    Each(Box<[T]>),
}

impl<T: Clone + PartialEq> Regional<T> {
    /// These, one for each region. There is at least one.
    pub fn of(values: Vec<T>) -> Self {
        match values.split_first() {
            Some((first, others)) if others.iter().all(|value| value == first) => {
                Self::Everywhere(first.clone())
            }
            _ => Self::Each(values.into()),
        }
    }

    /// The value for a region.
    pub fn at(&self, region: usize) -> &T {
        match self {
            Self::Everywhere(value) => value,
            Self::Each(values) => &values[region],
        }
    }

    /// The value for each of so many regions.
    pub fn each(&self, regions: usize) -> Vec<T> {
        (0..regions).map(|region| self.at(region).clone()).collect()
    }

    /// Whether some region has such a value.
    pub fn any(&self, is_such: impl Fn(&T) -> bool) -> bool {
        match self {
            Self::Everywhere(value) => is_such(value),
            Self::Each(values) => values.iter().any(is_such),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_same_everywhere_is_kept_once_and_reads_as_what_it_was_made_of() {
        for values in [vec![7], vec![7, 7, 7], vec![7, 8, 7], vec![8, 7, 7]] {
            let regional = Regional::of(values.clone());
            let is_once = matches!(regional, Regional::Everywhere(_));
            assert_eq!(is_once, values.iter().all(|v| *v == values[0]));
            assert_eq!(regional.each(values.len()), values);
            assert_eq!(regional.any(|v| *v == 8), values.contains(&8));
        }
    }
}
