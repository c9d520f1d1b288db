//! Moments of what the model gets.

use lumbre_abi::{Ctx, Element, Result, Tensor, callback};

/// So many elements fit into the first-level cache, in every type.
const CHUNK: usize = 1024;

/// So many sums run side by side, which the compiler turns into vectors.
const LANES: usize = 16;

/// Mean, variance and count of numbers, and how many were none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    count: f64,
    mean: f64,
    /// The sum of the squared distances from the mean.
    squares: f64,
    nans: f64,
}

impl Moments {
    /// The unbiased variance, as `torch.var`.
    fn variance(&self) -> f64 {
        if self.count < 2.0 {
            return f64::NAN;
        }
        self.squares / (self.count - 1.0)
    }

    /// Join two samples (Chan, Golub and `LeVeque`, 1979).
    fn merge(&mut self, other: &Self) {
        self.nans += other.nans;
        if other.count == 0.0 {
            return;
        }
        let count = self.count + other.count;
        let distance = other.mean - self.mean;
        self.mean += distance * other.count / count;
        self.squares += other.squares + distance * distance * self.count * other.count / count;
        self.count = count;
    }

    /// All elements of a tensor; NaNs are counted and left out.
    fn add(&mut self, tensor: &Tensor<'_>) {
        if let Ok(Some(values)) = tensor.typed::<f32>().map(|view| view.as_slice()) {
            self.add_slice(values);
        } else if let Ok(Some(values)) = tensor.typed::<f64>().map(|view| view.as_slice()) {
            self.add_slice(values);
        } else {
            self.add_any(tensor);
        }
    }

    fn add_slice<T: Element>(&mut self, values: &[T]) {
        for chunk in values.chunks(CHUNK) {
            self.merge(&Self::of(chunk));
        }
    }

    /// Any type and any strides: through a chunk of numbers.
    fn add_any(&mut self, tensor: &Tensor<'_>) {
        let (mut chunk, mut filled) = ([0.0; CHUNK], 0);
        tensor.for_each(|value| {
            chunk[filled] = value;
            filled += 1;
            if filled == CHUNK {
                self.merge(&Self::of(&chunk));
                filled = 0;
            }
        });
        self.merge(&Self::of(&chunk[..filled]));
    }

    /// A chunk's moments. All is measured from one of its elements: of two numbers that are far from
    /// zero and close to each other nothing is lost by squaring.
    fn of<T: Element>(chunk: &[T]) -> Self {
        let mut finite = chunk.iter().map(|value| value.to_f64());
        let shift = finite.find(|value| value.is_finite()).unwrap_or(0.0);
        let mut sums = [0.0; LANES];
        let mut squares = [0.0; LANES];
        let mut nans = [0.0; LANES];
        let mut add = |lane: usize, value: T| {
            let value = value.to_f64();
            let (distance, nan) = if value.is_nan() {
                (0.0, 1.0)
            } else {
                (value - shift, 0.0)
            };
            sums[lane] += distance;
            squares[lane] += distance * distance;
            nans[lane] += nan;
        };
        let (rows, rest) = chunk.as_chunks::<LANES>();
        for row in rows {
            for (lane, &value) in row.iter().enumerate() {
                add(lane, value);
            }
        }
        for (lane, &value) in rest.iter().enumerate() {
            add(lane, value);
        }
        let nans: f64 = nans.iter().sum();
        let count = chunk.len() as f64 - nans;
        if count == 0.0 {
            return Self {
                nans,
                ..Self::default()
            };
        }
        let (sum, squares): (f64, f64) = (sums.iter().sum(), squares.iter().sum());
        Self {
            count,
            mean: shift + sum / count,
            // Rounding may take a little more away than there is. A NaN stays one.
            squares: match squares - sum * sum / count {
                less if less < 0.0 => 0.0,
                left => left,
            },
            nans,
        }
    }
}

/// Adds up the moments of the inputs of a training pass.
#[derive(Default)]
pub struct InputStats(Moments);

/// Logs `input_mean`, `input_var` (unbiased, as `torch.var`) and `input_nans` of all elements that the
/// model got in a training pass, read where they lie. NaNs are counted and left out of the other two.
///
/// It reads at `on_train_batch_begin` and logs at `on_train_end`, at weight 0. Inputs on an accelerator
/// are refused.
#[callback(logs("input_mean", "input_var", "input_nans"))]
impl InputStats {
    fn on_train_begin(&mut self) {
        self.0 = Moments::default();
    }

    fn on_train_batch_begin(&mut self, ctx: &mut Ctx<'_>) -> Result {
        if let Some(input) = ctx.input()? {
            self.0.add(&input);
        }
        Ok(())
    }

    fn on_train_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
        let mean = if self.0.count > 0.0 {
            self.0.mean
        } else {
            f64::NAN
        };
        ctx.log("input_mean", mean)?;
        ctx.log("input_var", self.0.variance())?;
        ctx.log("input_nans", self.0.nans)
    }

    fn save(&self) -> Vec<u8> {
        let Moments {
            count,
            mean,
            squares,
            nans,
        } = self.0;
        [count, mean, squares, nans].map(f64::to_le_bytes).concat()
    }

    fn load(&mut self, state: &[u8]) -> Result {
        let (numbers, rest) = state.as_chunks::<8>();
        let ([count, mean, squares, nans], []) = (numbers, rest) else {
            return Err(format!("InputStats: its state is 32 bytes; got {}", state.len()).into());
        };
        let [count, mean, squares, nans] =
            [count, mean, squares, nans].map(|&b| f64::from_le_bytes(b));
        self.0 = Moments {
            count,
            mean,
            squares,
            nans,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use lumbre_abi::Hook;
    use lumbre_abi::testing::{Mounted, Run, Values};

    use super::*;

    /// What a pass over these batches logs: mean, variance, NaNs.
    fn logged(batches: &[Values]) -> [f64; 3] {
        let (mut run, stats) = (Run::new(), Mounted::new(InputStats::default()));
        run.fire(&stats, Hook::TrainBegin).unwrap();
        for batch in batches {
            run.input = Some(batch.clone());
            run.fire(&stats, Hook::TrainBatchBegin).unwrap();
            run.next_batch();
        }
        run.fire(&stats, Hook::TrainEnd).unwrap();
        let value = |at: usize, name| {
            assert_eq!(run.logged[at].0, name);
            run.logged[at].1
        };
        let names = ["train_input_mean", "train_input_var", "train_input_nans"];
        [value(0, names[0]), value(1, names[1]), value(2, names[2])]
    }

    fn close(left: f64, right: f64) -> bool {
        (left - right).abs() <= 1e-9 * right.abs().max(1e-300)
    }

    #[test]
    fn the_moments_of_a_row_are_known() {
        // 0, 1, ..., n - 1: the mean is (n - 1) / 2, the variance n (n + 1) / 12.
        for n in [2_u32, 15, 16, 17, 1024, 1025, 5000] {
            let row: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let n = f64::from(n);
            let [mean, var, nans] = logged(&[Values::new(&row, &[row.len().try_into().unwrap()])]);
            assert!(close(mean, (n - 1.0) / 2.0), "{n}: {mean}");
            assert!(close(var, n * (n + 1.0) / 12.0), "{n}: {var}");
            assert_eq!(nans.to_bits(), 0_f64.to_bits());
        }
    }

    #[test]
    fn far_from_zero_nothing_is_lost() {
        let row: Vec<f64> = (0..3000).map(|i| 1e9 + f64::from(i % 3)).collect();
        let [mean, var, _] = logged(&[Values::new(&row, &[3000])]);
        assert!(close(mean, 1e9 + 1.0), "{mean}");
        assert!((var - 2.0 / 3.0 * 3000.0 / 2999.0).abs() < 1e-9, "{var}");
    }

    #[test]
    fn nans_are_counted_and_left_out() {
        let row = [f32::NAN, 1.0, f32::NAN, 3.0];
        let all = logged(&[Values::new(&row, &[2, 2])]);
        assert!(all.iter().all(|&value| close(value, 2.0)), "{all:?}");
        let [mean, var, nans] =
            logged(&[Values::new(&row[..1], &[1]), Values::new(&[0_f32; 0], &[0])]);
        assert!(mean.is_nan() && var.is_nan());
        assert_eq!(nans.to_bits(), 1_f64.to_bits());
    }

    #[test]
    fn every_type_goes_the_same_way() {
        let long: Vec<i64> = (0..2050).collect();
        let [mean, var, _] = logged(&[Values::new(&long, &[2050])]);
        assert!(
            close(mean, 1024.5) && close(var, 2050.0 * 2051.0 / 12.0),
            "{mean} {var}"
        );
        let bytes = Values::new(&[0_u8, 1, 1, 2], &[4]);
        assert_eq!(
            logged(&[bytes.clone(), bytes])[0].to_bits(),
            1_f64.to_bits()
        );
    }

    #[test]
    fn a_split_pass_is_the_whole_one() {
        let row: Vec<f32> = (0..4000).map(|i| ((i * 37) % 101) as f32).collect();
        let whole = logged(&[Values::new(&row, &[4000])]);
        let part = |from, to| Values::new(&row[from..to], &[(to - from).try_into().unwrap()]);
        let split = logged(&[part(0, 7), part(7, 1900), part(1900, 4000)]);
        assert!(
            close(split[0], whole[0]) && close(split[1], whole[1]),
            "{split:?} {whole:?}"
        );
    }

    #[test]
    fn a_state_is_taken_up_to_the_bit() {
        let (mut run, stats) = (Run::new(), Mounted::new(InputStats::default()));
        run.input = Some(Values::new(&[0.1_f32, 0.7, f32::NAN], &[3]));
        run.fire(&stats, Hook::TrainBatchBegin).unwrap();
        let other = Mounted::new(InputStats::default());
        other.load(&stats.save().unwrap().unwrap()).unwrap();
        assert_eq!(stats.with(|stats| stats.0), other.with(|stats| stats.0));
        let short = lumbre_abi::Saved::Bytes(vec![0; 31]);
        let message = other.load(&short).unwrap_err().to_string();
        assert_eq!(message, "InputStats: its state is 32 bytes; got 31");
    }
}
