//! Autograd nodes with their backward in Rust.
#![allow(unsafe_code)]

use super::ffi;
use crate::error::{Error, ErrorKind, Result};
use std::any::Any;
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use tch::Tensor;
use torch_sys::C_tensor;

type Backward = Box<dyn Fn(Vec<Option<Tensor>>, &[Tensor]) -> Result<Vec<Option<Tensor>>> + Send + Sync>;

/// Makes `output` a function of `inputs` whose gradients `backward` computes.
///
/// `output` is computed beforehand from the values of `inputs`, without a history of its own. `backward` gets the
/// gradient of the loss with respect to `output` and the `saved` tensors, and returns one gradient per input, `None`
/// for an input that needs none. Torch checks that no saved tensor was changed in place in the meantime, and frees them
/// after the backward pass. Where no input needs a gradient, or inside `tch::no_grad`, `output` comes back as it is.
///
/// On a GPU the closure runs on one of torch's own threads, hence `Send + Sync`.
///
/// # Errors
/// [`ErrorKind::Train`] if `output` already has a history, is one of the inputs, or is among the saved tensors. What
/// fails later, when the closure runs (its own error, a panic, a wrong number of gradients, a gradient of the wrong
/// shape), comes out of `f_backward` or `f_run_backward` as an error.
///
/// ```
/// use qat_trainer::autograd::closure_node;
/// use tch::Tensor;
/// let x = Tensor::from_slice(&[1f32, -2.0, 3.0]).set_requires_grad(true);
/// let y = tch::no_grad(|| x.relu()); // forward …
/// // … and a straight-through backward: the gradient passes as if relu were not there.
/// let y = closure_node(y, &[&x], &[], |grad, _| Ok(vec![Some(grad.shallow_clone())]))?;
/// y.sum(tch::Kind::Float).f_backward()?;
/// assert_eq!(x.grad().double_value(&[1]), 1.0);
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn closure_node<F>(output: Tensor, inputs: &[&Tensor], saved: &[&Tensor], backward: F) -> Result<Tensor>
where
    F: Fn(&Tensor, &[Tensor]) -> Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
{
    closure_node_taking(output, inputs, saved, move |grad, saved| backward(&grad, saved))
}

/// As [`closure_node`], but `backward` takes the gradient: where nothing else holds it, its memory may become that of a
/// result.
///
/// # Errors
/// The same.
pub(crate) fn closure_node_taking<F>(
    output: Tensor,
    inputs: &[&Tensor],
    saved: &[&Tensor],
    backward: F,
) -> Result<Tensor>
where
    F: Fn(Tensor, &[Tensor]) -> Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
{
    let count = inputs.len();
    let backward =
        move |grads: Vec<Option<Tensor>>, saved: &[Tensor]| match grads.into_iter().flatten().next() {
            Some(grad) => backward(grad, saved),
            None => Ok((0..count).map(|_| None).collect()),
        };
    let [output] = attach([output], inputs, saved, Box::new(backward))?;
    Ok(output)
}

/// As [`closure_node`], with several outputs: `backward` gets a gradient for each, `None` for one that the loss does not depend on.
///
/// # Errors
/// The same.
///
/// ```
/// use qat_trainer::autograd::closure_nodes;
/// use tch::{Kind, Tensor};
/// let x = Tensor::from_slice(&[1f32, -2.0]).set_requires_grad(true);
/// let outputs = tch::no_grad(|| [&x * 2.0, &x * 3.0]);
/// let [a, b] = closure_nodes(outputs, &[&x], &[], |grads, _| {
///     let terms = grads.iter().zip([2.0, 3.0]).filter_map(|(grad, factor)| Some(grad.as_ref()? * factor));
///     Ok(vec![terms.reduce(|a, b| a + b)])
/// })?;
/// (a * 10.0 + b).sum(Kind::Float).f_backward()?;
/// assert_eq!(x.grad(), Tensor::from_slice(&[23f32, 23.0])); // 10·2 + 3
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn closure_nodes<const N: usize, F>(
    outputs: [Tensor; N],
    inputs: &[&Tensor],
    saved: &[&Tensor],
    backward: F,
) -> Result<[Tensor; N]>
where
    F: Fn(&[Option<Tensor>], &[Tensor]) -> Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
{
    attach(outputs, inputs, saved, Box::new(move |grads, saved| backward(&grads, saved)))
}

fn attach<const N: usize>(
    mut outputs: [Tensor; N],
    inputs: &[&Tensor],
    saved: &[&Tensor],
    backward: Backward,
) -> Result<[Tensor; N]> {
    let raw = |tensors: &[&Tensor]| tensors.iter().map(|t| t.as_ptr().cast_mut()).collect::<Vec<_>>();
    let (inputs, saved) = (raw(inputs), raw(saved));
    let data = Box::into_raw(Box::new(backward));
    let of_outputs: Vec<_> = outputs.iter_mut().map(Tensor::as_mut_ptr).collect();
    // SAFETY: the tensor pointers are those of live handles, which the bridge copies and does not change, but for the
    // history of the outputs, handles that this function owns. The closure goes to the bridge on every path; it is read by
    // `call` and freed by `free`, once.
    let rc = unsafe {
        ffi::qat_attach(
            of_outputs.as_ptr(),
            N,
            inputs.as_ptr(),
            inputs.len(),
            saved.as_ptr(),
            saved.len(),
            data.cast::<c_void>(),
            call,
            free,
        )
    };
    ffi::check(rc)?;
    Ok(outputs)
}

/// The bridge's way to the closure. Takes the gradients of the outputs. Returns 0, or −1 after leaving a message.
unsafe extern "C" fn call(
    closure: *mut c_void,
    saved: *const *mut C_tensor,
    n_saved: usize,
    grads_out: *const *mut C_tensor,
    n_out: usize,
    grad_in: *mut *mut C_tensor,
    n_in: usize,
) -> c_int {
    let run = || -> Result<()> {
        let mut of_outputs = Vec::with_capacity(n_out);
        for i in 0..n_out {
            // SAFETY: the bridge passes `n_out` pointers, null or to tensors that it hands over.
            let grad = unsafe {
                let grad = *grads_out.add(i);
                if grad.is_null() { None } else { Some(Tensor::from_ptr(grad)) }
            };
            of_outputs.push(grad);
        }
        // SAFETY: `closure` is the box of `closure_node`, alive as long as its node, and `Sync`.
        let closure = unsafe { &*closure.cast::<Backward>() };
        let mut tensors = Vec::with_capacity(n_saved);
        for i in 0..n_saved {
            // SAFETY: the bridge passes `n_saved` pointers to tensors that live during the call.
            tensors.push(unsafe { Tensor::clone_from_ptr(*saved.add(i)) });
        }
        let grads = closure(of_outputs, &tensors)?;
        if grads.len() != n_in {
            return Err(Error::new(
                ErrorKind::Train,
                format!("{} gradients returned for {n_in} inputs", grads.len()),
            ));
        }
        for (i, grad) in grads.into_iter().enumerate() {
            if let Some(grad) = grad.filter(Tensor::defined) {
                // SAFETY: the bridge passes room for `n_in` pointers and becomes the owner of what it finds there.
                unsafe { *grad_in.add(i) = std::mem::ManuallyDrop::new(grad).as_mut_ptr() };
            }
        }
        Ok(())
    };
    let text = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => return 0,
        Ok(Err(e)) => e.to_string(),
        Err(payload) => panic_text(payload),
    };
    // SAFETY: the bridge copies `len` bytes.
    unsafe { ffi::qat_set_callback_error(text.as_ptr().cast(), text.len()) };
    -1
}

fn panic_text(payload: Box<dyn Any + Send>) -> String {
    let text = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    let text = format!("panic: {text}");
    // Dropping a payload may panic in turn, and nothing would catch that.
    std::mem::forget(payload);
    text
}

unsafe extern "C" fn free(closure: *mut c_void) {
    // SAFETY: the box of `closure_node`, which the bridge frees once.
    let closure = unsafe { Box::from_raw(closure.cast::<Backward>()) };
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(closure))) {
        std::mem::forget(payload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::{is_sole_owner, memory_mut};
    use crate::random::normal;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};
    use tch::{Device, Kind};

    const F32: (Kind, Device) = (Kind::Float, Device::Cpu);

    fn leaf(shape: &[i64]) -> Tensor {
        normal(3, shape).set_requires_grad(true)
    }

    /// x·y + sin(x) as a closure node.
    fn node(x: &Tensor, y: &Tensor) -> Tensor {
        let out = tch::no_grad(|| x * y + x.sin());
        closure_node(out, &[x, y], &[x, y], |g, saved| {
            let (x, y) = (&saved[0], &saved[1]);
            Ok(vec![Some(g * (y + x.cos())), Some(g * x)])
        })
        .unwrap()
    }

    #[test]
    fn several_outputs_have_a_gradient_each_and_none_where_the_loss_does_not_depend_on_one() {
        let x = leaf(&[3]);
        let outputs = || tch::no_grad(|| [&x * 2.0, &x * 3.0]);
        let make = || {
            closure_nodes(outputs(), &[&x], &[], |grads, _| {
                let of = |i: usize, factor: f64| grads[i].as_ref().map(|g| g * factor);
                let all = [of(0, 2.0), of(1, 3.0)];
                Ok(vec![all.into_iter().flatten().reduce(|a, b| a + b)])
            })
            .unwrap()
        };
        let gradient = |loss: Tensor| Tensor::run_backward(&[loss.sum(Kind::Float)], &[&x], false, false);
        let [a, b] = make();
        assert_eq!(gradient(&a * 10.0 + &b)[0], Tensor::from_slice(&[23f32; 3]));
        let [_, b] = make();
        assert_eq!(gradient(b)[0], Tensor::from_slice(&[3f32; 3]));
        let [a, b] = tch::no_grad(make);
        assert!(!a.requires_grad() && !b.requires_grad());
        let problem = closure_nodes([&x * 2.0], &[&x], &[], |_, _| Ok(vec![None])).unwrap_err();
        assert!(problem.to_string().contains("already has a history"), "{problem}");
    }

    #[test]
    fn a_gradient_is_taken_whole_where_nothing_else_holds_it() {
        let x = leaf(&[3]);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let node = || {
            let seen = Arc::clone(&seen);
            closure_node_taking(tch::no_grad(|| &x * 2.0), &[&x], &[], move |mut grad, _| {
                let sole = is_sole_owner(&mut grad)?;
                seen.lock().map_err(|e| Error::new(ErrorKind::Train, e.to_string()))?.push(sole);
                if sole {
                    memory_mut(&mut grad)?.iter_mut().for_each(|g| *g *= 2.0);
                    return Ok(vec![Some(grad)]);
                }
                Ok(vec![Some(grad * 2.0)])
            })
            .unwrap()
        };
        let gradient = |y: Tensor| {
            let loss = (y * 3.0).sum(Kind::Float);
            let gradient = Tensor::run_backward(&[loss], &[&x], false, false).swap_remove(0);
            (gradient, std::mem::take(&mut *seen.lock().unwrap()))
        };
        assert_eq!(gradient(node()), (Tensor::from_slice(&[6f32; 3]), vec![true]));
        // Both terms of a sum get the same tensor; the first must leave it alone.
        let (of_sum, seen) = gradient(node() + node());
        assert_eq!((of_sum, seen.len(), seen[0]), (Tensor::from_slice(&[12f32; 3]), 2, false));
    }

    #[test]
    fn gradients_equal_those_of_torchs_own_operators() {
        let (x, y) = (leaf(&[5, 7]), leaf(&[5, 7]));
        // On both sides of the node, and through it twice, so that gradients have to be accumulated.
        let chain = |f: &dyn Fn(&Tensor, &Tensor) -> Tensor| {
            let z = f(&(&x * 2.0), &y);
            (f(&z, &y).tanh()).sum(Kind::Float)
        };
        let ours = Tensor::f_run_backward(&[chain(&node)], &[&x, &y], false, false).unwrap();
        let torch =
            Tensor::f_run_backward(&[chain(&|x, y| x * y + x.sin())], &[&x, &y], false, false).unwrap();
        for (a, b) in ours.iter().zip(&torch) {
            assert!(a.allclose(b, 1e-6, 1e-6, false), "{a:?} {b:?}");
            assert!(a.abs().max().double_value(&[]) > 0.1);
        }
    }

    fn failure(
        f: impl Fn(&Tensor, &[Tensor]) -> Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
    ) -> String {
        let x = leaf(&[3]);
        let y = closure_node(tch::no_grad(|| &x * 2.0), &[&x], &[], f).unwrap();
        Error::from(y.sum(Kind::Float).f_backward().unwrap_err()).to_string()
    }

    #[test]
    fn whatever_goes_wrong_inside_comes_out_as_an_error() {
        assert!(failure(|_, _| panic!("lost in {}", "the closure")).contains("panic: lost in the closure"));
        assert!(
            failure(|_, _| Err(Error::new(ErrorKind::Train, "no gradient today")))
                .contains("no gradient today")
        );
        assert!(failure(|_, _| Ok(vec![])).contains("0 gradients returned for 1 inputs"));
        assert!(
            failure(|g, _| Ok(vec![Some(g.shallow_clone()), None])).contains("2 gradients returned for 1")
        );
        // A C++ exception inside the closure, and a gradient that torch itself refuses.
        assert!(failure(|g, _| Ok(vec![Some(g.f_matmul(&Tensor::zeros([5, 5], F32))?)])).contains("torch"));
        assert!(failure(|_, _| Ok(vec![Some(Tensor::zeros([4, 4], F32))])).contains("shape"));
        // The thread is as good as new.
        let x = leaf(&[3]);
        node(&x, &x).sum(Kind::Float).f_backward().unwrap();
    }

    #[test]
    fn outputs_that_cannot_be_attached_are_refused() {
        let x = leaf(&[3]);
        let none = |_: &Tensor, _: &[Tensor]| Ok(vec![None]);
        assert!(closure_node(&x * 2.0, &[&x], &[], none).unwrap_err().to_string().contains("history"));
        let y = tch::no_grad(|| &x * 2.0);
        let twin = y.shallow_clone();
        assert!(closure_node(y, &[&x], &[&twin], none).unwrap_err().to_string().contains("its own output"));
    }

    #[test]
    fn saved_tensors_must_not_change() {
        let x = leaf(&[3]);
        let mut s = Tensor::ones([3], F32);
        let y =
            closure_node(tch::no_grad(|| &x * &s), &[&x], &[&s], |g, s| Ok(vec![Some(g * &s[0])])).unwrap();
        let _ = s.fill_(5.0);
        let e = Error::from(y.sum(Kind::Float).f_backward().unwrap_err()).to_string();
        assert!(e.contains("inplace"), "{e}");
    }

    #[test]
    fn a_second_pass_needs_the_graph() {
        let x = leaf(&[3]);
        let loss = node(&x, &x).sum(Kind::Float);
        Tensor::f_run_backward(&[&loss], &[&x], true, false).unwrap();
        Tensor::f_run_backward(&[&loss], &[&x], false, false).unwrap();
        let e = Error::from(Tensor::f_run_backward(&[&loss], &[&x], false, false).unwrap_err()).to_string();
        assert!(e.contains("freed"), "{e}");
    }

    struct Counted(Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_closure_is_dropped_once_on_every_path() {
        let drops = Arc::new(AtomicUsize::new(0));
        let run = |output: Tensor, input: &Tensor| {
            let counted = Counted(drops.clone());
            closure_node(output, &[input], &[], move |g, _| {
                let _ = &counted;
                Ok(vec![Some(g.shallow_clone())])
            })
        };
        let x = leaf(&[3]);
        let y = run(tch::no_grad(|| &x * 1.0), &x).unwrap();
        assert_eq!(drops.load(Ordering::Relaxed), 0);
        y.sum(Kind::Float).f_backward().unwrap();
        drop(y);
        assert_eq!(drops.load(Ordering::Relaxed), 1);
        // No gradient needed; not attachable.
        assert!(!run(Tensor::ones([3], F32), &Tensor::ones([3], F32)).unwrap().requires_grad());
        assert_eq!(drops.load(Ordering::Relaxed), 2);
        assert!(run(&x * 1.0, &x).is_err());
        assert_eq!(drops.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn an_unused_output_sends_no_gradient() {
        let x = leaf(&[3]);
        let y = node(&x, &x);
        let g = Tensor::f_run_backward(&[(&y.detach() * &x).sum(Kind::Float)], &[&x], false, false).unwrap();
        assert!(g[0].equal(&y.detach()));
    }
}
