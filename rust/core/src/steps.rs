//! Rows of single steps, in columns.

use std::sync::Arc;

/// So many rows share one allocation of a column.
const CHUNK: usize = 4096;

/// So many rows are gathered before they are taken apart into columns.
const STAGED: usize = 256;

/// A table of numbers: a column for each name, a row for each step that was kept.
///
/// A row that has nothing for a column has NaN there. Rows are only added. The last ones lie in a row
/// each, side by side: to add one touches one place in memory, where columns would be one for each.
#[derive(Clone, Debug, Default)]
pub struct Steps {
    names: Vec<Arc<str>>,
    /// Of each column; the last chunk of each is as full as that of the others.
    columns: Vec<Vec<Vec<f64>>>,
    /// How many rows are in the columns.
    settled: usize,
    /// The rows behind these, one after the other.
    staged: Vec<f64>,
    rows: usize,
}

impl Steps {
    /// The names of the columns, in the order in which they came.
    #[must_use]
    pub fn names(&self) -> &[Arc<str>] {
        &self.names
    }

    /// How many rows there are.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of a column; it is made if it is not there.
    pub fn column(&mut self, name: &Arc<str>) -> usize {
        let known = self.names.iter().position(|known| known == name);
        if let Some(place) = known {
            // The name in the hand of who asks is known by its address from here on.
            self.names[place] = Arc::clone(name);
        }
        known.unwrap_or_else(|| {
            self.settle();
            self.names.push(Arc::clone(name));
            let mut chunks = Vec::new();
            for start in (0..self.rows).step_by(CHUNK) {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.resize(CHUNK.min(self.rows - start), f64::NAN);
                chunks.push(chunk);
            }
            self.columns.push(chunks);
            self.names.len() - 1
        })
    }

    /// The same, for a name that is likely the one of that column, which its address tells.
    pub fn column_near(&mut self, likely: usize, name: &Arc<str>) -> usize {
        match self.names.get(likely) {
            Some(known) if Arc::ptr_eq(known, name) => likely,
            _ => self.column(name),
        }
    }

    /// Begin a row, of NaN; gives its number.
    pub fn begin(&mut self) -> usize {
        if self.rows - self.settled >= STAGED {
            self.settle();
        }
        let width = self.names.len();
        self.staged.resize(self.staged.len() + width, f64::NAN);
        self.rows += 1;
        self.rows - 1
    }

    /// Put a number into a row; outside of the table nothing happens.
    pub fn set(&mut self, row: usize, column: usize, value: f64) {
        let cell = if let Some(place) = row.checked_sub(self.settled) {
            let width = self.names.len();
            let is_here = column < width;
            self.staged
                .get_mut(place * width + column)
                .filter(|_| is_here)
        } else {
            let chunk = self.columns.get_mut(column);
            let chunk = chunk.and_then(|chunks| chunks.get_mut(row / CHUNK));
            chunk.and_then(|chunk| chunk.get_mut(row % CHUNK))
        };
        if let Some(cell) = cell {
            *cell = value;
        }
    }

    /// Take the last rows apart into their columns.
    pub fn settle(&mut self) {
        let width = self.names.len();
        for row in self.settled..self.rows {
            let begins_chunk = row.is_multiple_of(CHUNK);
            let start = (row - self.settled) * width;
            for (chunks, number) in self.columns.iter_mut().zip(&self.staged[start..]) {
                if begins_chunk {
                    chunks.push(Vec::with_capacity(CHUNK));
                }
                if let Some(last) = chunks.last_mut() {
                    last.push(*number);
                }
            }
        }
        self.settled = self.rows;
        self.staged.clear();
    }

    /// The last number of a column.
    #[must_use]
    pub fn last(&self, name: &str) -> Option<f64> {
        let column = self.names.iter().position(|known| &**known == name)?;
        if self.rows > self.settled {
            let start = self.staged.len().checked_sub(self.names.len())?;
            return self.staged.get(start + column).copied();
        }
        self.columns[column].last()?.last().copied()
    }

    /// Each column with its numbers, chunk by chunk.
    pub fn columns(&mut self) -> impl Iterator<Item = (&Arc<str>, &[Vec<f64>])> {
        self.settle();
        self.names
            .iter()
            .zip(self.columns.iter().map(Vec::as_slice))
    }

    /// A table of whole columns; `None` when they differ in length.
    #[must_use]
    pub fn of(columns: Vec<(Arc<str>, Vec<f64>)>) -> Option<Self> {
        let rows = columns.first().map_or(0, |(_, numbers)| numbers.len());
        let mut table = Self {
            rows,
            settled: rows,
            ..Self::default()
        };
        for (name, numbers) in columns {
            if numbers.len() != rows {
                return None;
            }
            let chunk = |part: &[f64]| {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.extend_from_slice(part);
                chunk
            };
            table
                .columns
                .push(numbers.chunks(CHUNK).map(chunk).collect());
            table.names.push(name);
        }
        Some(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn flat(table: &mut Steps) -> Vec<(String, Vec<u64>)> {
        let bits = |chunks: &[Vec<f64>]| chunks.concat().iter().map(|x| x.to_bits()).collect();
        let columns = table.columns();
        columns
            .map(|(name, chunks)| (name.to_string(), bits(chunks)))
            .collect()
    }

    proptest! {
        #[test]
        fn a_table_is_its_rows(
            rows in proptest::collection::vec(
                proptest::collection::vec((0_usize..5, any::<f64>()), 0..4), 0..40),
            before in 0_usize..3,
        ) {
            let mut table = Steps::default();
            let filler = before * (CHUNK - 1);
            for _ in 0..filler {
                table.begin();
            }
            let mut expected: Vec<Vec<f64>> = vec![Vec::new(); 5];
            for row in &rows {
                let number = table.begin();
                for column in &mut expected {
                    column.push(f64::NAN);
                }
                for &(column, value) in row {
                    let place = table.column(&format!("c{column}").into());
                    table.set(number, place, value);
                    prop_assert_eq!(table.last(&format!("c{column}")).map(f64::to_bits), Some(value.to_bits()));
                    *expected[column].last_mut().unwrap() = value;
                }
            }
            prop_assert_eq!(table.rows(), filler + rows.len());
            for (name, chunks) in table.columns() {
                let numbers = chunks.concat();
                let column: usize = name[1..].parse().unwrap();
                prop_assert!(numbers[..filler].iter().all(|x| x.is_nan()));
                let bits = |numbers: &[f64]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                prop_assert_eq!(bits(&numbers[filler..]), bits(&expected[column]));
            }
            let whole = |(name, chunks): (&Arc<str>, &[Vec<f64>])| (Arc::clone(name), chunks.concat());
            let mut again = Steps::of(table.columns().map(whole).collect()).unwrap();
            prop_assert_eq!(flat(&mut again), flat(&mut table));
            if again.rows() == table.rows() {
                let (one, other) = (again.begin(), table.begin());
                prop_assert_eq!(one, other);
                prop_assert_eq!(flat(&mut again), flat(&mut table));
            }
        }
    }

    #[test]
    fn columns_of_two_lengths_are_no_table() {
        let columns = vec![("a".into(), vec![1.0]), ("b".into(), vec![])];
        assert!(Steps::of(columns).is_none());
    }

    #[test]
    fn nothing_is_put_outside_of_the_table() {
        let mut table = Steps::default();
        let column = table.column(&"a".into());
        table.set(0, column, 1.0);
        assert_eq!(table.rows(), 0);
        let row = table.begin();
        table.set(row, column, 2.0);
        table.set(row, 7, 3.0);
        assert_eq!(table.last("a"), Some(2.0));
        assert_eq!(table.last("b"), None);
    }
}
