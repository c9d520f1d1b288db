//! What a host lends, made of any bytes: tensors, and runs in which a callback does anything.

use lumbre_abi::layout::{Tensor, status};
use lumbre_abi::testing::{Mounted, Run, Values};
use lumbre_abi::{Ctx, Element, Hook, Result, Saved, callback};

use crate::forge::Bytes;
use crate::host::{Host, hand_over};

/// Reads a tensor in every way there is.
#[derive(Default)]
struct Reads;

#[callback]
impl Reads {
    fn on_fit_begin(&mut self, ctx: &mut Ctx<'_>) -> Result {
        let Some(tensor) = ctx.input()? else {
            return Ok(());
        };
        let mut walked = Vec::new();
        tensor.for_each(|value| walked.push(value));
        let text = format!("{:?} {walked:?}", tensor.shape());
        let seen = match tensor.dtype().name() {
            "uint8" | "bool" => seen::<u8>(tensor)?,
            "int64" => seen::<i64>(tensor)?,
            _ => seen::<f32>(tensor)?,
        };
        assert_eq!(seen, walked);
        ctx.stop(text);
        Ok(())
    }
}

fn seen<T: Element>(tensor: lumbre_abi::Tensor<'_>) -> Result<Vec<f64>> {
    let view = tensor.typed::<T>()?;
    if let Some(slice) = view.as_slice() {
        assert_eq!(slice.len(), tensor.len());
        return Ok(slice.iter().map(|value| value.to_f64()).collect());
    }
    let mut places = vec![Vec::new()];
    for &size in view.shape() {
        let longer = |place: &Vec<usize>| {
            let place = place.clone();
            (0..usize::try_from(size).unwrap_or(0)).map(move |at| [&place[..], &[at]].concat())
        };
        places = places.iter().flat_map(longer).collect();
    }
    Ok(places
        .iter()
        .filter_map(|place| view.get(place))
        .map(Element::to_f64)
        .collect())
}

/// Lend a tensor as these bytes say, and see that it is read as it lies, or refused.
pub fn check_tensor(bytes: &[u8]) {
    let mut from = Bytes(bytes);
    let (codes, dimensions) = ([(1, 8), (6, 8), (0, 64), (2, 32)], from.below(5));
    let (code, bits) = codes[from.below(4)];
    let mut shape: Vec<i64> = (0..dimensions)
        .map(|_| i64::from(from.byte() % 4))
        .collect();
    let strides: Vec<i64> = (0..dimensions)
        .map(|_| i64::from(from.byte() % 9))
        .collect();
    let is_empty = shape.contains(&0);
    let reach: i64 = shape
        .iter()
        .zip(&strides)
        .map(|(size, stride)| (size - 1) * stride)
        .sum();
    let length = if is_empty {
        0
    } else {
        usize::try_from(reach + 1).unwrap_or(0)
    };
    // Where there is nothing, a size may be beyond all memory.
    if shape.first() == Some(&0) && from.byte() % 2 == 1 {
        shape[1..].fill(i64::MAX);
    }
    let (small, large): (Vec<u8>, Vec<i64>) = (
        (0..length).map(|at| at.to_le_bytes()[0] % 2).collect(),
        (0..).take(length).collect(),
    );
    let floats: Vec<f32> = small.iter().map(|&value| value.into()).collect();
    let mut tensor = Tensor {
        data: match code {
            1 | 6 => small.as_ptr().cast(),
            0 => large.as_ptr().cast(),
            _ => floats.as_ptr().cast(),
        },
        shape: shape.as_ptr(),
        strides: strides.as_ptr(),
        dimensions: u32::try_from(dimensions).unwrap_or(0),
        code,
        bits,
        lanes: 1,
    };
    let negative = vec![-1; dimensions];
    let broken = match from.byte() {
        240..=242 => {
            tensor.lanes = 4;
            true
        }
        243..=245 => {
            tensor.code = 5;
            true
        }
        246..=248 => {
            tensor.data = std::ptr::null();
            length > 0
        }
        249..=252 => {
            tensor.strides = negative.as_ptr();
            dimensions > 0
        }
        253.. => {
            tensor.shape = negative.as_ptr();
            dimensions > 0
        }
        _ => false,
    };

    let (foreign, _handle) = hand_over(Reads);
    let host = Host::at(0);
    host.tensor.set(Some(tensor));
    let outcome = host.fire(&foreign);
    if broken {
        assert_eq!(outcome.map_err(|(status, _)| status), Err(status::FAILED));
        return;
    }
    assert_eq!(outcome, Ok(()));
    let mut offsets = vec![0];
    for (&size, &stride) in shape.iter().zip(&strides).filter(|_| !is_empty) {
        offsets = offsets
            .iter()
            .flat_map(|at| (0..size).map(move |n| at + n * stride))
            .collect();
    }
    offsets.truncate(if is_empty { 0 } else { offsets.len() });
    let value = |&offset: &i64| if code == 0 { offset } else { offset % 256 % 2 };
    let expected: Vec<f64> = offsets.iter().map(|at| value(at) as f64).collect();
    assert_eq!(host.stopped.take(), Some(format!("{shape:?} {expected:?}")));
}

/// Does what its bytes say, and keeps what it has done.
#[derive(Default)]
struct Anything {
    bytes: Vec<u8>,
    logged: Vec<(String, f64)>,
    stopped: Option<String>,
}

#[callback(logs("anything"))]
impl Anything {
    fn on_train_batch_begin(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.act(ctx)
    }

    fn on_train_batch_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.act(ctx)
    }

    fn on_epoch_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.act(ctx)
    }

    fn act(&mut self, ctx: &mut Ctx<'_>) -> Result {
        let bytes = std::mem::take(&mut self.bytes);
        let mut from = Bytes(&bytes);
        let outcome = self.one(ctx, &mut from);
        self.bytes = from.0.to_vec();
        outcome
    }

    fn one(&mut self, ctx: &mut Ctx<'_>, from: &mut Bytes<'_>) -> Result {
        match from.byte() % 8 {
            0 | 1 => {
                let (name, value) = (from.name(), f64::from(from.byte()));
                ctx.log(&name, value)?;
                self.logged.push((format!("train_{name}"), value));
            }
            2 => {
                let reason = from.name();
                ctx.stop(&reason);
                self.stopped.get_or_insert(reason);
            }
            3 => {
                let name = format!("valid_{}", from.name());
                assert_eq!(ctx.metric(&name)?, None);
                assert_eq!(ctx.metric("valid_loss")?, Some(0.5));
                assert_eq!((ctx.loss()?, ctx.batch_size()?), (Some(0.25), Some(2)));
            }
            4 => {
                let mut sum = 0.0;
                if let Some(input) = ctx.input()? {
                    input.for_each(|value| sum += value);
                }
                assert!((sum - 10.0).abs() < 1e-12);
            }
            5 => ctx.skip_batch(),
            6 => return Err(from.name().into()),
            _ => panic!("{}", from.name()),
        }
        Ok(())
    }

    fn save(&self) -> Vec<u8> {
        self.bytes.clone()
    }

    fn load(&mut self, state: &[u8]) {
        self.bytes = state.to_vec();
    }
}

/// Let a callback do what these bytes say, and see that the run hears of it.
pub fn check_events(bytes: &[u8]) {
    let mut run = Run::new();
    run.input = Some(Values::new(&[1.0_f32, 2.0, 3.0, 4.0], &[2, 2]));
    (run.loss, run.batch_size) = (Some(0.25), Some(2));
    run.metrics.insert("valid_loss".into(), 0.5);
    let anything = Mounted::new(Anything {
        bytes: bytes.to_vec(),
        ..Anything::default()
    });
    let mut panicked = false;
    for round in 0..24 {
        let hooks = [
            Hook::TrainBatchBegin,
            Hook::TrainBatchEnd,
            Hook::EpochEnd,
            Hook::FitEnd,
        ];
        let hook = hooks[round % 4];
        let next = anything.with(|callback| callback.bytes.first().map_or(0, |byte| byte % 8));
        let outcome = run.fire(&anything, hook).map_err(|trouble| trouble.status);
        let expected = match next {
            _ if hook == Hook::FitEnd => Ok(()),
            _ if panicked => Err(status::BROKEN),
            6 => Err(status::FAILED),
            7 => {
                panicked = true;
                Err(status::PANICKED)
            }
            _ => Ok(()),
        };
        assert_eq!(outcome, expected, "round {round}");
        if !panicked && next == 5 && hook != Hook::FitEnd {
            assert!(run.batch_skipped);
        }
        if let Ok(Some(saved)) = anything.save() {
            assert_eq!(
                saved,
                Saved::Bytes(anything.with(|callback| callback.bytes.clone()))
            );
            anything.load(&saved).unwrap();
        }
        run.next_batch();
    }
    anything.with(|callback| {
        assert_eq!(run.logged, callback.logged);
        assert_eq!(run.stopped, callback.stopped);
    });
}
