"""Train a classifier of handwritten digits in a loop written by hand, which can be stopped and goes on where it was.

python examples/custom_loop.py
python examples/custom_loop.py --precision fp16 --accumulate 4 --stop-after 60    # and once more, to see it go on
"""

import argparse
import contextlib
from pathlib import Path

import minigrad as mg
from minigrad import amp, data, io, nn, optim, train
from minigrad.data import transforms

HALVES = {"fp16": mg.float16, "bf16": mg.bfloat16}


def parse_args() -> argparse.Namespace:
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=formatter)
    add = parser.add_argument
    add("--epochs", type=positive, default=20, help="passes over the training data")
    add("--batch-size", type=positive, default=32, help="images that go through the network at a time")
    add("--accumulate", type=positive, default=2, help="such batches in one step")
    add("--lr", type=float, default=3e-3, help="learning rate at its largest")
    add("--precision", choices=["fp32", "fp16", "bf16"], default="fp32", help="what to compute in")
    add("--checkpoint", type=Path, default="custom_loop.ckpt", help="where to save the run, and to go on from")
    add("--save-every", type=positive, default=20, help="steps between two checkpoints")
    add("--stop-after", type=positive, help="leave after so many steps, as if the power had failed")
    add("--device", default="cpu", help="where to compute: cpu or cuda")
    add("--seed", type=int, default=0, help="of the weights, the order of the images, and dropout")
    return parser.parse_args()


def positive(text: str) -> int:
    """An argument that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def accuracy(model: nn.Module, images: mg.Tensor, labels: mg.Tensor) -> float:
    """The share of digits that are read correctly."""
    model.eval()
    with mg.no_grad():
        correct = model(images).argmax(axis=-1) == labels
    model.train()
    return correct.mean(dtype=mg.float32).item()


def main() -> None:
    args = parse_args()
    mg.random.seed(args.seed)
    images, labels, *test_set = data.load_digits()
    shift = transforms.RandomCrop(padding=1)
    loader = data.DataLoader(
        data.TensorDataset(images, labels), args.batch_size, shuffle=True, seed=args.seed, transform=shift
    )
    test_images, test_labels = (mg.asarray(part, device=args.device) for part in test_set)

    hidden = {"activation": "relu", "kernel_regularizer": nn.L2(1e-5), "kernel_initializer": "he_normal"}
    model = nn.Sequential([nn.Flatten(), nn.Dense(256, **hidden), nn.Dropout(0.2), nn.Dense(10)]).to(args.device)
    model(test_images[:1])  # the layers read their numbers of inputs
    loss_function = nn.CrossEntropyLoss(label_smoothing=0.05)
    optimizer = optim.AdamW(model.named_parameters(), lr=args.lr)
    steps = args.epochs * -(-len(loader) // args.accumulate)
    schedule = optim.schedules.WarmupCosineLR(optimizer, steps // 20, steps)
    average = optim.EMA(model, decay=0.98)
    scaler = amp.GradScaler(enabled=args.precision == "fp16")
    half = HALVES.get(args.precision)
    parts = {
        "model": model, "optimizer": optimizer, "schedule": schedule, "average": average, "scaler": scaler,
        "loader": loader,
    }  # fmt: skip

    step = 0
    if args.checkpoint.exists():
        state = io.load_checkpoint(args.checkpoint)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        mg.random.set_state(state["random"])
        step = state["step"]
        print(f"going on after step {step}, in epoch {loader.epoch}")

    begin, summed, seen = step, 0.0, 0
    while step < steps:
        for batches in train.accumulate(loader, args.accumulate, loss_function):
            optimizer.zero_grad()
            for (x, y), share in batches:
                x, y = x.to(args.device), y.to(args.device)
                with contextlib.nullcontext() if half is None else amp.autocast(half):
                    loss = loss_function(model(x), y)
                scaler.scale(loss * share).backward()
                summed, seen = summed + loss.item() * len(y), seen + len(y)
            scaler.unscale_(optimizer)
            optim.clip_grad_norm_(model.parameters(), max_norm=1.0)
            if scaler.step(optimizer):  # False: an overflow, and nothing advances
                schedule.step()
                average.update()
            scaler.update()
            step += 1
            if step % args.save_every == 0:
                state = {name: part.state_dict() for name, part in parts.items()}
                io.save_checkpoint(args.checkpoint, {**state, "random": mg.random.get_state(), "step": step})
            if args.stop_after is not None and step - begin == args.stop_after:
                print(f"stopped after step {step}")
                return
        with average.average():
            found = accuracy(model, test_images, test_labels)
        print(f"step {step:4}   loss {summed / max(seen, 1):.4f}   test accuracy of the averaged weights {found:.2%}")
        summed, seen = 0.0, 0
    args.checkpoint.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
