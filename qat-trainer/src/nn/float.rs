//! The network in floating point, with batch normalisation.

use super::graph::{activate, shared_bases, unweighted, walk, weighted};
use super::param::Param;
use super::weights::Rates;
use super::{Network, See, one_gradient};
use crate::autograd::slice;
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::graph::{BN_EPS, Basis};
use crate::seeded::initial_weights;
use crate::spec::{ModelSpec, Op, Shape, WeightInit};
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// Share of the newest batch in the running statistics.
const BN_MOMENTUM: f64 = 0.1;

/// A network in floating point.
#[derive(Debug)]
pub(crate) struct FloatNet {
    spec: ModelSpec,
    layers: Vec<Option<Weighted>>,
    /// Those of the rotations; none while the weights are not rotated.
    bases: Vec<Option<Arc<Basis>>>,
}

#[derive(Debug)]
struct Weighted {
    shape: Vec<usize>,
    weight: Param,
    bias: Option<Param>,
    norm: Option<Norm>,
}

#[derive(Debug)]
struct Norm {
    weight: Param,
    bias: Param,
    mean: Tensor,
    var: Tensor,
}

impl FloatNet {
    /// A network with the weights of [`initial_weights`]. Biases start at 0.
    pub(crate) fn new(spec: &ModelSpec, input: Shape, init: WeightInit, seed: u64) -> Result<Self> {
        let mut layers = Vec::new();
        for (i, (l, shape)) in spec.layers.iter().zip(weight_shapes(spec, input)?).enumerate() {
            let Some(shape) = shape else {
                layers.push(None);
                continue;
            };
            let out = shape[0];
            let weight = initial_weights(&l.op, &shape, init, seed, i);
            let full = |x: f32, decays| Param::new(&vec![x; out], &[out], decays);
            layers.push(Some(Weighted {
                weight: Param::new(&weight, &shape, true)?,
                bias: if l.op.bn() { None } else { Some(full(0.0, false)?) },
                norm: match l.op.bn() {
                    true => Some(Norm {
                        weight: full(1.0, false)?,
                        bias: full(0.0, false)?,
                        mean: Tensor::f_zeros([out as i64], (Kind::Float, Device::Cpu))?,
                        var: Tensor::f_ones([out as i64], (Kind::Float, Device::Cpu))?,
                    }),
                    false => None,
                },
                shape,
            }));
        }
        Ok(Self { spec: spec.clone(), layers, bases: Vec::new() })
    }

    /// The network of a floating-point checkpoint.
    pub(crate) fn load(spec: &ModelSpec, input: Shape, from: &Checkpoint) -> Result<Self> {
        let mut net = Self::new(spec, input, WeightInit::default(), 0)?;
        for (l, w) in spec.layers.iter().zip(&mut net.layers) {
            let Some(w) = w else { continue };
            let out = [w.shape[0]];
            let get = |name: &str, shape: &[usize]| from.get(&format!("{}.{name}", l.name), shape);
            w.weight = Param::new(get("weight", &w.shape)?, &w.shape, true)?;
            if let Some(bias) = &mut w.bias {
                *bias = Param::new(get("bias", &out)?, &out, false)?;
            }
            if let Some(n) = &mut w.norm {
                n.weight = Param::new(get("bn.weight", &out)?, &out, false)?;
                n.bias = Param::new(get("bn.bias", &out)?, &out, false)?;
                n.mean = Tensor::f_from_slice(get("bn.running_mean", &out)?)?;
                n.var = Tensor::f_from_slice(get("bn.running_var", &out)?)?;
            }
        }
        Ok(net)
    }

    /// The network of a checkpoint that [`super::fold`] made.
    pub(crate) fn load_folded(spec: &ModelSpec, input: Shape, folded: &Checkpoint) -> Result<Self> {
        let mut plain = spec.clone();
        for l in &mut plain.layers {
            if let Op::Conv { bn, .. } | Op::Depthwise { bn, .. } | Op::Linear { bn, .. } = &mut l.op {
                *bn = false;
            }
        }
        Ok(Self { bases: shared_bases(spec, input)?, ..Self::load(&plain, input, folded)? })
    }

    /// The layers.
    pub(crate) fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn params(&self) -> impl Iterator<Item = &Param> {
        self.named_params().map(|(_, p)| p)
    }

    /// The parameters with the names of their values in a checkpoint, in the order of [`Self::params_mut`].
    fn named_params(&self) -> impl Iterator<Item = (String, &Param)> {
        self.spec.layers.iter().zip(&self.layers).filter_map(|(l, w)| Some((l, w.as_ref()?))).flat_map(
            |(l, w)| {
                let name = |part: &str| format!("{}.{part}", l.name);
                let bias = w.bias.iter().map(move |b| (name("bias"), b));
                let norm = w.norm.iter().flat_map(move |n| {
                    [(format!("{}.bn.weight", l.name), &n.weight), (format!("{}.bn.bias", l.name), &n.bias)]
                });
                std::iter::once((format!("{}.weight", l.name), &w.weight)).chain(bias).chain(norm)
            },
        )
    }

    fn params_mut(&mut self) -> impl Iterator<Item = &mut Param> {
        self.layers.iter_mut().flatten().flat_map(|w| {
            let norm = w.norm.iter_mut().flat_map(|n| [&mut n.weight, &mut n.bias]);
            std::iter::once(&mut w.weight).chain(&mut w.bias).chain(norm)
        })
    }
}

/// The shape of each layer's weights, in torch's layout; `None` for layers without.
pub(crate) fn weight_shapes(spec: &ModelSpec, input: Shape) -> Result<Vec<Option<Vec<usize>>>> {
    let shapes = spec.shapes(input)?;
    Ok(spec.layers.iter().map(|l| l.op.weight_shape(l.input.of(input, &shapes))).collect())
}

impl Network for FloatNet {
    fn forward_seen(&self, x: &Tensor, train: bool, see: See<'_>) -> Result<Tensor> {
        walk(&self.spec, x, |i, l, inputs| {
            let y = match &self.layers[i] {
                Some(w) => {
                    let y = weighted(&l.op, inputs.x, w.weight.leaf(), w.bias.as_ref().map(Param::leaf))?;
                    match &w.norm {
                        Some(n) => y.f_batch_norm(
                            Some(n.weight.leaf()),
                            Some(n.bias.leaf()),
                            Some(&n.mean),
                            Some(&n.var),
                            train,
                            BN_MOMENTUM,
                            BN_EPS,
                            false,
                        )?,
                        None => y,
                    }
                }
                None => unweighted(l, &inputs, self.bases.get(i).and_then(Option::as_ref))?,
            };
            let y = activate(l.op.act(), y)?;
            see(i, &y);
            Ok(y)
        })
    }

    fn leaves(&self) -> Vec<&Tensor> {
        self.params().map(Param::leaf).collect()
    }

    fn update(&mut self, grads: &[Tensor], rates: &Rates) -> Result<()> {
        let mut grads = grads.iter();
        for p in self.params_mut() {
            let g = one_gradient(grads.next())?.f_contiguous()?;
            p.update(slice(&g)?, rates.factor, rates.weights)?;
        }
        Ok(())
    }

    fn average(&mut self, decay: f32) -> Result<()> {
        self.params_mut().try_for_each(|p| p.average(decay))
    }

    fn swap_average(&mut self) -> Result<()> {
        self.params_mut().try_for_each(Param::swap_average)
    }

    fn save(&self) -> Result<Checkpoint> {
        let mut c = Checkpoint::default();
        for (l, w) in self.spec.layers.iter().zip(&self.layers) {
            let Some(w) = w else { continue };
            let out = [w.shape[0]];
            let mut put = |name: &str, shape: &[usize], data: &[f32]| {
                c.insert(&format!("{}.{name}", l.name), shape, data.to_vec())
            };
            put("weight", &w.shape, w.weight.values()?)?;
            if let Some(bias) = &w.bias {
                put("bias", &out, bias.values()?)?;
            }
            if let Some(n) = &w.norm {
                put("bn.weight", &out, n.weight.values()?)?;
                put("bn.bias", &out, n.bias.values()?)?;
                put("bn.running_mean", &out, slice(&n.mean)?)?;
                put("bn.running_var", &out, slice(&n.var)?)?;
            }
        }
        Ok(c)
    }

    fn save_state(&self, to: &mut Checkpoint) -> Result<()> {
        self.named_params().try_for_each(|(name, p)| p.save_state(&name, to))
    }

    fn load_state(&mut self, from: &Checkpoint) -> Result<()> {
        let names: Vec<String> = self.named_params().map(|(name, _)| name).collect();
        self.params_mut().zip(names).try_for_each(|(p, name)| p.load_state(&name, from))
    }
}
