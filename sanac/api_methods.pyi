"""Types of the verbs as methods, made from their settings by `make generate`; not edited by hand."""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, Literal, TypeAlias

from sanac.api import Report, SanaModel
from sanac.core.settings import Setting
from sanac.verbs import Verb

HIDDEN: tuple[str, ...]
NOT_METHODS: tuple[str, ...]
_File: TypeAlias = str | PathLike[str]
_Model: TypeAlias = str | PathLike[str] | SanaModel

def keyword_settings(verb: Verb) -> list[Setting]: ...
def documentation(verb: Verb) -> str: ...
def signature(verb: Verb) -> Any: ...
def _method(verb: Verb) -> Callable[..., Any]: ...

class VerbMethods:
    def call(
        self, verb: Verb, settings: dict[str, Any], others: Sequence[Any] = ()
    ) -> SanaModel | Report: ...
    def inspect(
        self,
        *,
        scan: bool = ...,
    ) -> Report:
        """Say what MODEL is: family, blocks, parameters, bytes, dtypes, what it needs to run, where it comes from.

        Only headers are read, so a 10 GB checkpoint takes a moment and no memory. MODEL is a diffusers pipeline or
        transformer folder, a .safetensors or .pth file, a hub id in the local cache, or an artifact.

        Settings:
            scan: Read every byte: look for NaN and Inf, check an artifact's digests.
        """
    def convert(
        self,
        *,
        to: Literal["diffusers", "nvlabs", "single"],
        pipeline: _Model | None = ...,
        transformer_only: bool = ...,
        lora: str | Sequence[str] = ...,
        link: bool = ...,
        shard_size: int | str = ...,
        full_hash: bool = ...,
        out: _File | None = ...,
        dry_run: bool = ...,
        force: bool = ...,
        fresh: bool = ...,
    ) -> SanaModel:
        """Write MODEL as a diffusers folder, as NVlabs' model.pth, or as one model.safetensors with NVlabs' names.

        Family, depth and layout are read off the tensors, never off a path. Nothing is unpickled: a .pth file's tensors are
        found by their place in the file. There and back is bit-exact: what only one layout has is kept in a side file.

        Settings:
            to: The layout.  [one of diffusers, nvlabs, single; required]
            pipeline: A pipeline whose other components complete a lone transformer.
            transformer_only: Leave out the text encoder, the autoencoder and the rest.
            lora: Merge a LoRA; its block numbers are those of the model before any pruning or growing. May be repeated.
            link: Hard-link unchanged components: no space, but editing one edits both.
            shard_size: Largest weight file to write.  [default: 5GB]
            full_hash: Identify the input by all its bytes, not by headers and times.
            out: Where to write.  [default: WORKSPACE/VERB-KEY]
            dry_run: Print the plan and what it needs; write nothing.
            force: Replace an artifact that is already in OUT.
            fresh: Discard what an interrupted run left instead of continuing it.
        """
    def analyze(
        self,
        *,
        metric: Literal["bi", "norm", "velocity"] = ...,
        save_embeddings: _File | None = ...,
        inputs: Literal["sampled", "noised"] = ...,
        data: _File | None = ...,
        reduce: Literal["token", "sample"] = ...,
        prompts: _File | None = ...,
        embeddings: _File | None = ...,
        num_prompts: int | None = ...,
        timesteps: int | None = ...,
        guidance: float = ...,
        memory_limit: int | str | None = ...,
        precision: Literal["bf16", "tf32", "fp32"] | None = ...,
        yes: bool = ...,
        seed: int = ...,
        device: str | None = ...,
        out: _File | None = ...,
        dry_run: bool = ...,
        force: bool = ...,
        fresh: bool = ...,
    ) -> Report:
        """Watch the stream between MODEL's blocks while it samples, and score each block by how much it changes it.

        The model need not fit in memory: per sampler step its blocks are read one after the other, and the states of all
        prompts are pushed through. A stopped run continues where it was.

        Settings:
            metric: The metric to show. bi and norm are always measured; velocity leaves out each block in turn.  [one of bi, norm, velocity; default: bi]
            save_embeddings: Keep the encoded prompts, for --embeddings.
            inputs: Sampled trajectories, or the latents of --data with noise added.  [one of sampled, noised; default: sampled]
            data: Latents of your own images, as .safetensors files.
            reduce: Cosine per token, or of whole samples.  [one of token, sample; default: token]
            prompts: Text file, one prompt per line.  [default: bundled]
            embeddings: Encoded prompts that --save-embeddings wrote, instead of prompts.
            num_prompts: Number of prompts.  [at least 1; default: 100; search, gptq, int8, fp8: 32; schedule: 16; a budget: 8]
            timesteps: Sampler steps.  [1 to 1,000; default: 20, SANA-Sprint's 2]
            guidance: Guidance scale; of token generators Show-o's.  [0 to 100; default: 4.5; tokens 1.75]
            memory_limit: Maximum memory to use.  [default: 2GB; search, repair and gptq: more]
            precision: Precision of products; sums are fp32 or better.  [one of bf16, tf32, fp32; default: fp32; GPUs: the weights' bf16, or tf32]
            yes: Continue even if the estimate exceeds an hour.
            seed: Seed of everything random.  [0 to 1,099,511,627,776; default: 0]
            device: cpu, cuda or cuda:N.  [default: the best that is available]
            out: Where to write.  [default: WORKSPACE/VERB-KEY]
            dry_run: Print the plan and what it needs; write nothing.
            force: Replace an artifact that is already in OUT.
            fresh: Discard what an interrupted run left instead of continuing it.
        """
    def prune(
        self,
        *,
        target_blocks: int | None = ...,
        target_params: str | None = ...,
        keep: str | None = ...,
        scores: _File | None = ...,
        select: Literal["bi", "norm", "velocity", "search"] | None = ...,
        compensate: bool = ...,
        confirm: Literal["shapes", "prompts"] | None = ...,
        confirm_prompts: _File | None = ...,
        verifier: str | None = ...,
        images: int = ...,
        protect_first: int = ...,
        protect_last: int = ...,
        inputs: Literal["sampled", "noised"] = ...,
        data: _File | None = ...,
        reduce: Literal["token", "sample"] = ...,
        prompts: _File | None = ...,
        embeddings: _File | None = ...,
        num_prompts: int | None = ...,
        timesteps: int | None = ...,
        guidance: float = ...,
        memory_limit: int | str | None = ...,
        precision: Literal["bf16", "tf32", "fp32"] | None = ...,
        yes: bool = ...,
        seed: int = ...,
        device: str | None = ...,
        transformer_only: bool = ...,
        lora: str | Sequence[str] = ...,
        link: bool = ...,
        shard_size: int | str = ...,
        full_hash: bool = ...,
        out: _File | None = ...,
        dry_run: bool = ...,
        force: bool = ...,
        fresh: bool = ...,
    ) -> SanaModel:
        """Drop blocks of MODEL's transformer and write the rest as a model that stock diffusers loads.

        With --target-blocks, the blocks that matter most stay: found by a search and repaired where that is quick, else
        ranked by --scores or by scores measured on the spot as `sanac analyze` does. Weights are copied tensor by tensor,
        nothing is loaded; the input is not touched. Without MODEL it takes the workspace's source, else $SANAC_MODEL, else
        the released 4.8B model.

        Settings:
            target_blocks: Number of blocks to keep: the most important ones.  [at least 1]
            target_params: Keep the depth whose parameter count is nearest: 1.6B, 900M.
            keep: Blocks to keep, counted from 0, ends included: 0-9,50-59.
            scores: Scores that `sanac analyze` wrote.
            select: Rank blocks by a score each, or search over subsets.  [one of bi, norm, velocity, search; default: search and --compensate if they take under five minutes, else bi]
            compensate: Repair the remaining blocks in closed form, without training, for the dropped ones.
            confirm: Let images decide between subsets that the search finds nearly equal: of the shapes suite, or of your own prompts.  [one of shapes, prompts]
            confirm_prompts: Your own prompts, one per line, for --confirm prompts.
            verifier: What scores the images of --confirm prompts: shapes, clip:MODEL, vlm:MODEL, atoms:MODEL.  [default: similarity to the whole model's images (MS-SSIM)]
            images: Images per finalist of --confirm; a quarter of them per subset.  [48 to 4,096; default: 256; of your own prompts: each equally often, 48 or more]
            protect_first: Always keep the first K blocks.  [at least 0; default: 0]
            protect_last: Always keep the last K blocks.  [at least 0; default: 0]
            inputs: Sampled trajectories, or the latents of --data with noise added.  [one of sampled, noised; default: sampled]
            data: Latents of your own images, as .safetensors files.
            reduce: Cosine per token, or of whole samples.  [one of token, sample; default: token]
            prompts: Text file, one prompt per line.  [default: bundled]
            embeddings: Encoded prompts that --save-embeddings wrote, instead of prompts.
            num_prompts: Number of prompts.  [at least 1; default: 100; search, gptq, int8, fp8: 32; schedule: 16; a budget: 8]
            timesteps: Sampler steps.  [1 to 1,000; default: 20, SANA-Sprint's 2]
            guidance: Guidance scale; of token generators Show-o's.  [0 to 100; default: 4.5; tokens 1.75]
            memory_limit: Maximum memory to use.  [default: 2GB; search, repair and gptq: more]
            precision: Precision of products; sums are fp32 or better.  [one of bf16, tf32, fp32; default: fp32; GPUs: the weights' bf16, or tf32]
            yes: Continue even if the estimate exceeds an hour.
            seed: Seed of everything random.  [0 to 1,099,511,627,776; default: 0]
            device: cpu, cuda or cuda:N.  [default: the best that is available]
            transformer_only: Leave out the text encoder, the autoencoder and the rest.
            lora: Merge a LoRA; its block numbers are those of the model before any pruning or growing. May be repeated.
            link: Hard-link unchanged components: no space, but editing one edits both.
            shard_size: Largest weight file to write.  [default: 5GB]
            full_hash: Identify the input by all its bytes, not by headers and times.
            out: Where to write.  [default: WORKSPACE/VERB-KEY]
            dry_run: Print the plan and what it needs; write nothing.
            force: Replace an artifact that is already in OUT.
            fresh: Discard what an interrupted run left instead of continuing it.
        """
    def grow(
        self,
        *,
        target_blocks: int,
        init: Literal["partial", "cyclic", "replicate"] = ...,
        preserve: int | None = ...,
        qk_norm: bool = ...,
        transformer_only: bool = ...,
        lora: str | Sequence[str] = ...,
        link: bool = ...,
        shard_size: int | str = ...,
        full_hash: bool = ...,
        out: _File | None = ...,
        dry_run: bool = ...,
        force: bool = ...,
        fresh: bool = ...,
        seed: int = ...,
    ) -> SanaModel:
        """Add blocks to MODEL's transformer and write a model that stock diffusers loads, ready for training.

        With --init partial, the default, the result computes exactly what MODEL computes with only its first K blocks:
        the last two are dropped unless --preserve keeps them. The same --seed gives the same bytes.

        Nothing is loaded, the input is not touched. Without MODEL it takes the workspace's source, else $SANAC_MODEL, else
        the released 4.8B model.

        Settings:
            target_blocks: Number of blocks of the result.  [at least 1; required]
            init: partial: new blocks that are the identity; cyclic: all blocks over and over; replicate: each block several times in its place.  [one of partial, cyclic, replicate; default: partial]
            preserve: How many of the first blocks `partial` keeps; new ones follow.  [at least 0; default: all but the last two]
            qk_norm: Add QK norm to a model without it. Changes the function.
            transformer_only: Leave out the text encoder, the autoencoder and the rest.
            lora: Merge a LoRA; its block numbers are those of the model before any pruning or growing. May be repeated.
            link: Hard-link unchanged components: no space, but editing one edits both.
            shard_size: Largest weight file to write.  [default: 5GB]
            full_hash: Identify the input by all its bytes, not by headers and times.
            out: Where to write.  [default: WORKSPACE/VERB-KEY]
            dry_run: Print the plan and what it needs; write nothing.
            force: Replace an artifact that is already in OUT.
            fresh: Discard what an interrupted run left instead of continuing it.
            seed: Seed of everything random.  [0 to 1,099,511,627,776; default: 0]
        """
    def finetune(
        self,
        *,
        steps: int = ...,
        data: _File | None = ...,
        data_free: bool = ...,
        samples: int | None = ...,
        targets: Literal["trajectories", "noised"] | None = ...,
        teacher_steps: int | None = ...,
        prompts: _File | None = ...,
        teacher: _Model | None = ...,
        loss: str | Sequence[str] = ...,
        distill_guidance: float | None = ...,
        optimizer: Literal["came8bit", "came", "adamw", "adamw8bit"] = ...,
        learning_rate: float | None = ...,
        warmup: int | None = ...,
        batch: int | None = ...,
        accumulate: int = ...,
        clip: float = ...,
        ema: float = ...,
        caption_dropout: float | None = ...,
        precision: Literal["fp32", "bf16"] | None = ...,
        micro_batch: int | None = ...,
        checkpointing: bool = ...,
        intervals: bool = ...,
        freeze_first: int = ...,
        plan_for: str | None = ...,
        compile: bool = ...,
        lora: int | None = ...,
        lora_file: _File | None = ...,
        fake_quant: Literal["int8-wo", "int4-wo", "fp8-wo"] | None = ...,
        teacher_cache: int | str = ...,
        memory_limit: int | str | None = ...,
        save_every: int = ...,
        sample_every: int | None = ...,
        sample_prompt: str | Sequence[str] = ...,
        log_with: str | Sequence[str] = ...,
        out: _File | None = ...,
        dry_run: bool = ...,
        force: bool = ...,
        fresh: bool = ...,
        seed: int = ...,
        device: str | None = ...,
    ) -> SanaModel:
        """Train MODEL for a few steps to recover quality after pruning or quantization; write the result as an artifact.

        By default the model that it was pruned from is the teacher, on latents sampled from that teacher: no data is
        needed. Without MODEL it takes the workspace's newest artifact that this verb, or a later one, didn't make.
        Ctrl-C saves the state; the same command continues.

        Settings:
            steps: Optimizer steps.  [at least 1; default: 100]
            data: Images with captions, tars of them, prepared latents, or `shapes`.
            data_free: Train on latents sampled from the teacher; no dataset needed.  [default without --data]
            samples: Pictures to sample from the teacher, or scenes to draw.  [at least 1; default: as many as the steps need, at least 60; scenes: 2,048]
            targets: Train on the teacher's finished latents with noise added, or on every step of its sampling.  [one of trajectories, noised; default: noised]
            teacher_steps: Sampler steps of the teacher, for --data-free.  [1 to 1,000; default: 20, SANA-Sprint's 2]
            prompts: Text file for --data-free, one prompt per line.  [default: bundled]
            teacher: Teacher for distillation.  [default: the model that MODEL was pruned from]
            loss: flow, distill or features; NAME=WEIGHT weights a loss.  [default: distill with a teacher, else flow]
            distill_guidance: Learn the teacher's velocity guided by SCALE in the prompt's branch alone: half the work per step.  [above 1, at most 100]
            optimizer: The optimizer.  [one of came8bit, came, adamw, adamw8bit; default: came8bit]
            learning_rate: Peak learning rate.  [above 0; default: 0.1 / width]
            warmup: Warm-up steps.  [at least 0; default: a tenth of --steps]
            batch: Samples per batch.  [at least 1; default: 16,384 tokens, at most 64 samples]
            accumulate: Batches per optimizer step.  [at least 1; default: 1]
            clip: Largest gradient norm.  [above 0; default: 1]
            ema: Decay of the weights' moving average; 0 turns it off.  [at least 0, below 1; default: 0.99]
            caption_dropout: Share of captions replaced by the empty one.  [0 to 1; default: 0.1; 0 with --distill-guidance]
            precision: Precision of the forward and backward pass.  [one of fp32, bf16; default: bf16 on GPUs that have it, else fp32]
            micro_batch: Samples per pass; a batch takes as many passes as it needs.  [at least 1; default: as many as fit]
            checkpointing: Gradient checkpointing: less memory, a third more time.  [default where memory is short]
            intervals: Train each block before a gap alone, on the teacher's hidden states: one block in memory.
            freeze_first: Leave the first K blocks as they are.  [at least 0; default: 0]
            plan_for: Print what would be chosen on a device, such as 24GB or 'RTX 4090', and stop.
            compile: Compile the model: faster steps after a minute or two.
            lora: Train low-rank adapters only, then merge them.  [at least 1]
            lora_file: Keep the adapters as a file, too.
            fake_quant: Train for `sanac quantize --scheme SCHEME`, a weight-only scheme.  [one of int8-wo, int4-wo, fp8-wo]
            teacher_cache: Disk space for the teacher's outputs.  [default: 4GB]
            memory_limit: Memory for the teacher's forward passes.  [default: 2GB; GPUs: most of what is free]
            save_every: Steps between two checkpoints.  [at least 1; default: 100]
            sample_every: Generate --sample-prompt every so many steps.  [at least 1]
            sample_prompt: Prompt to sample during training. May be repeated.
            log_with: tensorboard, wandb, mlflow, ...: accelerate's trackers.
            out: Where to write.  [default: WORKSPACE/VERB-KEY]
            dry_run: Print the plan and what it needs; write nothing.
            force: Replace an artifact that is already in OUT.
            fresh: Discard what an interrupted run left instead of continuing it.
            seed: Seed of everything random.  [0 to 1,099,511,627,776; default: 0]
            device: cpu, cuda or cuda:N.  [default: the best that is available]
        """
    def reinforce(
        self,
        *,
        loss: Literal["rft", "dpo", "dgpo", "nft"],
        samples: _File | None = ...,
        rounds: int = ...,
        updates: int = ...,
        prompts_per_step: int = ...,
        learning_rate: float | None = ...,
        beta: float | None = ...,
        accept: float | None = ...,
        accepted: int = ...,
        safeguard: float = ...,
        kl: float = ...,
        reward: float = ...,
        lora: int | None = ...,
        optimizer: Literal["came8bit", "came", "adamw", "adamw8bit"] = ...,
        ema: float = ...,
        precision: Literal["fp32", "bf16"] | None = ...,
        micro_batch: int | None = ...,
        checkpointing: bool = ...,
        save_every: int = ...,
        out: _File | None = ...,
        dry_run: bool = ...,
        force: bool = ...,
        fresh: bool = ...,
        prompts: _File | None = ...,
        num_prompts: int | None = ...,
        verifier: str | None = ...,
        each: int = ...,
        steps: int | None = ...,
        guidance: float = ...,
        order: Literal["confidence", "halton"] = ...,
        temperature: float = ...,
        batch: int | None = ...,
        seed: int = ...,
        device: str | None = ...,
    ) -> SanaModel:
        """Train MODEL on its own images, by what a verifier says of them; no labelled data is needed.

        rft trains on accepted images. dpo makes the best image of a prompt likelier than its worst, dgpo and nft use all
        images of a prompt. Each further round samples with the model that the round before made. MODEL is a SANA model or a
        token generator. Ctrl-C saves the state; the same command continues.

        Settings:
            loss: The loss.  [one of rft, dpo, dgpo, nft; required]
            samples: Samples of `sanac judge samples`, for the first round.  [default: sampled now]
            rounds: Rounds of sampling and training.  [1 to 100; default: 1]
            updates: Optimizer steps of a round.  [at least 1; default: 100]
            prompts_per_step: Prompts per optimizer step.  [at least 1; default: 16]
            learning_rate: Peak learning rate.  [above 0; default: 0.01 / width]
            beta: How far the model may leave its reference: less is further.  [above 0; default: by model and loss]
            accept: rft: the score from which on an image is accepted.  [default: the verifier's verdict]
            accepted: rft: accepted images per prompt, at most.  [at least 1; default: 2]
            safeguard: dpo: least share of a step that lowers the winner's error; 0 turns it off.  [at least 0, below 1; default: 0.5]
            kl: dgpo: weight of the distance to the reference.  [at least 0; default: 0]
            reward: Weight of the judge's own gradient (judge:MODEL only); 0: none.  [at least 0; default: 0]
            lora: Train low-rank adapters only, then merge them.  [at least 1]
            optimizer: The optimizer.  [one of came8bit, came, adamw, adamw8bit; default: adamw]
            ema: Decay of the weights' moving average; 0 turns it off.  [at least 0, below 1; default: 0.95]
            precision: Precision of the forward and backward pass.  [one of fp32, bf16; default: bf16 on GPUs that have it, else fp32]
            micro_batch: Prompts per pass; a step takes as many passes as it needs.  [at least 1; default: as many as fit]
            checkpointing: Gradient checkpointing: less memory, a third more time.  [default where memory is short]
            save_every: Steps between two checkpoints.  [at least 1; default: 50]
            out: Where to write.  [default: WORKSPACE/VERB-KEY]
            dry_run: Print the plan and what it needs; write nothing.
            force: Replace an artifact that is already in OUT.
            fresh: Discard what an interrupted run left instead of continuing it.
            prompts: A text file with a prompt per line.  [default: the bundled 100; of the shapes world 256]
            num_prompts: How many of the prompts.  [at least 1; default: all]
            verifier: What scores the images: shapes, or judge:, clip:, vlm: or atoms:MODEL.
            each: Images per prompt.  [2 to 256; default: 8]
            steps: Sampler steps.  [1 to 1,000; default: the schedule's, else 20; SANA-Sprint 2, tokens 18]
            guidance: Guidance scale; of token generators Show-o's.  [0 to 100; default: 4.5; tokens 1.75]
            order: Which tokens become known first: the surest, or in a fixed order.  [one of confidence, halton; default: confidence]
            temperature: Noise in the order by confidence; 0: none.  [0 to 100; default: 1]
            batch: Images per sampling batch.  [at least 1; default: as many as fit, at most 16]
            seed: Seed of everything random.  [0 to 1,099,511,627,776; default: 0]
            device: cpu, cuda or cuda:N.  [default: the best that is available]
        """
    def quantize(
        self,
        *,
        scheme: Literal["int8-wo", "int4-wo", "fp8-wo", "int8", "int8-dynamic", "fp8", "fp8-dynamic"] | None = ...,
        component: Literal["transformer", "text-encoder", "vae"] | Sequence[Literal["transformer", "text-encoder", "vae"]] = ...,
        group_size: int | None = ...,
        rounding: Literal["nearest", "search", "gptq"] | None = ...,
        include: Literal["kv", "ends"] | Sequence[Literal["kv", "ends"]] = ...,
        skip: str | Sequence[str] = ...,
        smoothing: Literal["search", "none"] | None = ...,
        activation_range: Literal["minmax", "percentile", "mse"] | None = ...,
        max_bytes: int | str | None = ...,
        min_sqnr: float | None = ...,
        schemes: str | Sequence[str] = ...,
        explain: bool = ...,
        prompts: _File | None = ...,
        embeddings: _File | None = ...,
        num_prompts: int | None = ...,
        timesteps: int | None = ...,
        guidance: float = ...,
        memory_limit: int | str | None = ...,
        precision: Literal["bf16", "tf32", "fp32"] | None = ...,
        yes: bool = ...,
        transformer_only: bool = ...,
        lora: str | Sequence[str] = ...,
        link: bool = ...,
        shard_size: int | str = ...,
        full_hash: bool = ...,
        out: _File | None = ...,
        dry_run: bool = ...,
        force: bool = ...,
        fresh: bool = ...,
        seed: int = ...,
        device: str | None = ...,
    ) -> SanaModel:
        """Store MODEL's weights in fewer bits, tensor by tensor; the input is not touched.

        One of --scheme, --max-bytes and --min-sqnr says how. What needs activations (gptq, int8, fp8, smoothing) or
        measured errors (a budget) samples prompts with the model; everything else gives the same bytes anywhere. quant.json
        beside the weights says which are quantized, how, and why the others are not.
        Without MODEL it takes the workspace's newest artifact that this verb, or a later one, didn't make.

        Settings:
            scheme: Weight-only (-wo), or weights and activations (the others).  [one of int8-wo, int4-wo, fp8-wo, int8, int8-dynamic, fp8, fp8-dynamic]
            component: The component to quantize. May be repeated.  [one of transformer, text-encoder, vae; default: transformer]
            group_size: Inputs that share a scale.  [at least 1; default: 64 for int4-wo, else a whole channel]
            rounding: Scales by the largest value, or by the smallest error; gptq: values fitted to the activations, too.  [one of nearest, search, gptq; default: search for int4-wo, else nearest]
            include: Layers that are skipped otherwise. May be repeated.  [one of kv, ends]
            skip: Weights to leave unquantized, by a pattern of their names. May be repeated.
            smoothing: SmoothQuant-style smoothing of the inputs of outlier-prone layers.  [one of search, none; default: search]
            activation_range: How int8's and fp8's static activation scales are chosen.  [one of minmax, percentile, mse; default: minmax]
            max_bytes: Size budget for the components: mix schemes for the lowest error that fits.
            min_sqnr: Quality budget, of the velocity: mix schemes for the fewest bytes.  [above 0, below 200]
            schemes: Schemes that --max-bytes and --min-sqnr mix.  [one of int8-wo, int4-wo, fp8-wo; default: int8-wo,int4-wo]
            explain: Print how sensitive each weight is, and the scheme that it got.
            prompts: Text file, one prompt per line.  [default: bundled]
            embeddings: Encoded prompts that --save-embeddings wrote, instead of prompts.
            num_prompts: Number of prompts.  [at least 1; default: 100; search, gptq, int8, fp8: 32; schedule: 16; a budget: 8]
            timesteps: Sampler steps.  [1 to 1,000; default: 20, SANA-Sprint's 2]
            guidance: Guidance scale; of token generators Show-o's.  [0 to 100; default: 4.5; tokens 1.75]
            memory_limit: Maximum memory to use.  [default: 2GB; search, repair and gptq: more]
            precision: Precision of products; sums are fp32 or better.  [one of bf16, tf32, fp32; default: fp32; GPUs: the weights' bf16, or tf32]
            yes: Continue even if the estimate exceeds an hour.
            transformer_only: Leave out the text encoder, the autoencoder and the rest.
            lora: Merge a LoRA; its block numbers are those of the model before any pruning or growing. May be repeated.
            link: Hard-link unchanged components: no space, but editing one edits both.
            shard_size: Largest weight file to write.  [default: 5GB]
            full_hash: Identify the input by all its bytes, not by headers and times.
            out: Where to write.  [default: WORKSPACE/VERB-KEY]
            dry_run: Print the plan and what it needs; write nothing.
            force: Replace an artifact that is already in OUT.
            fresh: Discard what an interrupted run left instead of continuing it.
            seed: Seed of everything random.  [0 to 1,099,511,627,776; default: 0]
            device: cpu, cuda or cuda:N.  [default: the best that is available]
        """
    def schedule(
        self,
        *,
        budget: float | None = ...,
        max_loss: float | None = ...,
        confirm: Literal["shapes", "unseen", "prompts", "none"] | None = ...,
        confirm_prompts: _File | None = ...,
        verifier: str | None = ...,
        images: int = ...,
        front: float | Sequence[float] | str = ...,
        try_steps: int | Sequence[int] | str = ...,
        batch: int = ...,
        prompts: _File | None = ...,
        embeddings: _File | None = ...,
        num_prompts: int | None = ...,
        timesteps: int | None = ...,
        guidance: float = ...,
        memory_limit: int | str | None = ...,
        precision: Literal["bf16", "tf32", "fp32"] | None = ...,
        yes: bool = ...,
        seed: int = ...,
        device: str | None = ...,
        transformer_only: bool = ...,
        lora: str | Sequence[str] = ...,
        link: bool = ...,
        shard_size: int | str = ...,
        full_hash: bool = ...,
        out: _File | None = ...,
        dry_run: bool = ...,
        force: bool = ...,
        fresh: bool = ...,
    ) -> SanaModel:
        """Find how many blocks and which guidance each sampler step of MODEL needs, and write it with the model.

        The error of the velocity without some blocks proposes a schedule for each number of steps; images decide between
        them, and against the whole model in as few plain steps as cost the same: where those are as good, they are the
        schedule. No weight is changed. Everything that samples the result follows schedule.json.

        Settings:
            budget: Share of the block-forwards of the whole model at its usual steps.  [above 0, at most 1]
            max_loss: Take the cheapest schedule of the front that loses at most this score.  [0 to 1]
            confirm: What decides: the shapes suite, that with unseen contents as tasks, your own prompts, or the velocity's error alone.  [one of shapes, unseen, prompts, none; default: shapes where the model has its vocabulary, else none]
            confirm_prompts: Your own prompts, one per line, for --confirm prompts.
            verifier: What scores the images of --confirm prompts: shapes, clip:MODEL, vlm:MODEL, atoms:MODEL.  [default: similarity to the whole model's images (MS-SSIM)]
            images: Images per finalist; a quarter of them per candidate.  [48 to 4,096; default: 256; of your own prompts: each equally often, 48 or more]
            front: Budgets to search besides --budget.  [above 0, at most 1; default: 0.5,0.33,0.25,0.2,0.125]
            try_steps: Numbers of sampler steps to try.  [1 to 100; default: 20,12,10,8,6; 10 without confirmation]
            batch: Images per batch.  [at least 1; default: 32; fewer of large images]
            prompts: Text file, one prompt per line.  [default: bundled]
            embeddings: Encoded prompts that --save-embeddings wrote, instead of prompts.
            num_prompts: Number of prompts.  [at least 1; default: 100; search, gptq, int8, fp8: 32; schedule: 16; a budget: 8]
            timesteps: Sampler steps.  [1 to 1,000; default: 20, SANA-Sprint's 2]
            guidance: Guidance scale; of token generators Show-o's.  [0 to 100; default: 4.5; tokens 1.75]
            memory_limit: Maximum memory to use.  [default: 2GB; search, repair and gptq: more]
            precision: Precision of products; sums are fp32 or better.  [one of bf16, tf32, fp32; default: fp32; GPUs: the weights' bf16, or tf32]
            yes: Continue even if the estimate exceeds an hour.
            seed: Seed of everything random.  [0 to 1,099,511,627,776; default: 0]
            device: cpu, cuda or cuda:N.  [default: the best that is available]
            transformer_only: Leave out the text encoder, the autoencoder and the rest.
            lora: Merge a LoRA; its block numbers are those of the model before any pruning or growing. May be repeated.
            link: Hard-link unchanged components: no space, but editing one edits both.
            shard_size: Largest weight file to write.  [default: 5GB]
            full_hash: Identify the input by all its bytes, not by headers and times.
            out: Where to write.  [default: WORKSPACE/VERB-KEY]
            dry_run: Print the plan and what it needs; write nothing.
            force: Replace an artifact that is already in OUT.
            fresh: Discard what an interrupted run left instead of continuing it.
        """
    def export(
        self,
        *,
        onnx: bool = ...,
        component: Literal["transformer", "text-encoder", "vae", "all"] | Sequence[Literal["transformer", "text-encoder", "vae", "all"]] = ...,
        precision: Literal["bf16", "fp16", "fp32"] | None = ...,
        depthwise: Literal["fp16", "fp32"] | None = ...,
        depths: int = ...,
        in_place: bool = ...,
        no_verify: bool = ...,
        trt: bool = ...,
        builder: Literal["auto", "tensorrt", "rtx"] | None = ...,
        sm: str | Sequence[str] = ...,
        batch: str | None = ...,
        size: str | None = ...,
        weight_streaming: bool = ...,
        refit: bool = ...,
        refit_from: _File | None = ...,
        timing_cache: _File | None = ...,
        transformer_only: bool = ...,
        lora: str | Sequence[str] = ...,
        link: bool = ...,
        shard_size: int | str = ...,
        full_hash: bool = ...,
        out: _File | None = ...,
        dry_run: bool = ...,
        force: bool = ...,
        fresh: bool = ...,
        device: str | None = ...,
    ) -> SanaModel:
        """Write MODEL with ONNX graphs beside its weights, for any batch, size and caption length; with --trt, engines.

        Graphs refer to the weights where they are: nothing is stored twice but the autoencoder, of which clients want the
        halves in folders of their own. With --in-place no copy of the model is written: an artifact gets graphs beside its
        weights. Afterwards the graphs are compared with MODEL: exit 5 if they don't compute the same function. Without
        MODEL it takes the workspace's newest artifact that this verb, or a later one, didn't make.

        Settings:
            onnx: ONNX graphs; always written.
            component: The component to export. May be repeated.  [one of transformer, text-encoder, vae, all; default: all]
            precision: Precision to compute in.  [one of bf16, fp16, fp32; default: as stored]
            depthwise: Another precision for depthwise convolutions.  [one of fp16, fp32]
            depths: Depths of MODEL's schedule that get a graph of their own, at most; other steps run the next deeper one.  [1 to 16; default: 3]
            in_place: Add the graphs to MODEL itself, an artifact: no weights are copied.
            no_verify: Don't compare the graphs with the model.
            trt: Build TensorRT engines from the graphs, too.
            builder: tensorrt builds for the GPU of this machine, rtx ahead of time.  [one of auto, tensorrt, rtx; default: auto]
            sm: Target GPUs of engines built ahead of time: 89, rtx4090, ...
            batch: Batch sizes of the engines.  [default: 1..4]
            size: Image sides of the engines, in pixels.  [default: from half the model's native size to twice it]
            weight_streaming: Engines whose weights may stay in host memory.
            refit: Engines whose weights can be replaced later.
            refit_from: Replace the weights of this engine instead of building one.
            timing_cache: Timings of earlier builds, read and written.
            transformer_only: Leave out the text encoder, the autoencoder and the rest.
            lora: Merge a LoRA; its block numbers are those of the model before any pruning or growing. May be repeated.
            link: Hard-link unchanged components: no space, but editing one edits both.
            shard_size: Largest weight file to write.  [default: 5GB]
            full_hash: Identify the input by all its bytes, not by headers and times.
            out: Where to write.  [default: WORKSPACE/VERB-KEY]
            dry_run: Print the plan and what it needs; write nothing.
            force: Replace an artifact that is already in OUT.
            fresh: Discard what an interrupted run left instead of continuing it.
            device: cpu, cuda or cuda:N.  [default: the best that is available]
        """
    def verify(
        self,
        *,
        against: _Model,
        backend: Literal["torch", "onnx", "trt"] | None = ...,
        limit: float | None = ...,
        pictures: int = ...,
        steps: int = ...,
        rank_correlation: bool = ...,
        verifier: Literal["shapes"] | None = ...,
        rank_prompts: int | None = ...,
        noises: int | None = ...,
        candidate_steps: int | None = ...,
        min_kendall: float | None = ...,
        seed: int = ...,
        device: str | None = ...,
    ) -> Report:
        """Give CANDIDATE and REFERENCE the same inputs and compare their outputs, block by block; then their images.

        Inputs are random ones of several sizes, and edge cases: nothing but zeros, huge numbers, no caption, first and last
        step. Exit 5 when a value is beyond its limit.

        With --rank-correlation another question: do both rank the same noises alike, as a verifier grades their images?

        Settings:
            against: The reference model; in a recipe also `self` and `source`.  [required]
            backend: What runs CANDIDATE.  [one of torch, onnx, trt; default: onnx where graphs are]
            limit: Largest relative error.  [above 0; default: by precision]
            pictures: Images to generate with both; left out where memory is short, unless set.  [0 to 64; default: 4]
            steps: Sampler steps.  [1 to 1,000; default: 12]
            rank_correlation: Compare how both models rank the same noises.
            verifier: The verifier that grades the images.  [one of shapes; default: shapes]
            rank_prompts: Prompts to rank noises for.  [at least 6; default: 24]
            noises: Noises per prompt.  [2 to 256; default: 16]
            candidate_steps: Sampler steps of CANDIDATE.  [1 to 1,000; default: --steps]
            min_kendall: Exit 5 if the lower bound of Kendall's tau is less.  [-1 to 1]
            seed: Seed of everything random.  [0 to 1,099,511,627,776; default: 0]
            device: cpu, cuda or cuda:N.  [default: the best that is available]
        """
    def evaluate(
        self,
        *,
        suite: Literal["shapes", "geneval", "prompts"],
        images: int = ...,
        steps: int | None = ...,
        guidance: float = ...,
        order: Literal["confidence", "halton"] = ...,
        temperature: float = ...,
        batch: int = ...,
        backend: Literal["torch", "onnx", "onnx-trt", "onnx-rtx", "trt"] = ...,
        prompts_split: Literal["test", "tune"] = ...,
        prompts: _File | None = ...,
        each: int | None = ...,
        detector: str = ...,
        color_model: str = ...,
        against: _Model | None = ...,
        verifier: str | Sequence[str] = ...,
        n: int = ...,
        search_verifier: str | Sequence[str] = ...,
        out: _File | None = ...,
        search: Literal["single", "best-of", "halving", "gated", "two-stage", "reflection", "zero-order", "paths", "prm"] = ...,
        max_forwards: int | None = ...,
        max_seconds: float | None = ...,
        until: float | None = ...,
        previews: str | None = ...,
        look: int | Sequence[int] | str = ...,
        keep: float = ...,
        clarity: float = ...,
        potential: float = ...,
        draft_steps: int | None = ...,
        draft: _Model | None = ...,
        neighbours: int = ...,
        cosine: float = ...,
        back: float = ...,
        seed: int = ...,
        device: str | None = ...,
    ) -> Report:
        """Generate the suite's prompts with MODEL and judge every image; means with intervals by prompt.

        shapes: prompts of the shapes world, scores per task. Test prompts and combinations marked held-out were never seen
        in training. The same images are compared with rendered scenes as a set: a distance that sees collapse, which a
        score per image does not.

        geneval: GenEval's prompts and rules, with a detector of transformers. MODEL may also be a folder of images in
        GenEval's layout, which are judged without generating.

        prompts: your own, in --prompts FILE. The images are compared with those that --against generates from the same
        noises, and scored by --verifier. Of geneval and prompts, images and scores are kept: a stopped run goes on.

        Settings:
            suite: shapes: the world that sanac:tiny was trained on; geneval: photographs of everyday objects; prompts: your own.  [one of shapes, geneval, prompts; required]
            images: Images to generate and judge; two per task at least.  [at least 12; default: 2048]
            steps: Sampler steps.  [1 to 1,000; default: the schedule's, else 20; SANA-Sprint 2, tokens 18]
            guidance: Guidance scale; of token generators Show-o's.  [0 to 100; default: 4.5; tokens 1.75]
            order: Which tokens become known first: the surest, or in a fixed order.  [one of confidence, halton; default: confidence]
            temperature: Noise in the order by confidence; 0: none.  [0 to 100; default: 1]
            batch: Images per batch.  [at least 1; default: 32; prompts: fewer of large images]
            backend: What computes: the weights, or what was exported.  [one of torch, onnx, onnx-trt, onnx-rtx, trt; default: torch]
            prompts_split: The prompts: choose settings on tune, report test.  [one of test, tune; default: test]
            prompts: geneval: evaluation_metadata.jsonl; prompts: a text file with a prompt per line.
            each: Images per prompt.  [1 to 1,000; default: geneval: 4, or all of a folder's; prompts: 1]
            detector: A Mask2Former for instances: a folder or a hub id.  [default: facebook/mask2former-swin-small-coco-instance]
            color_model: A CLIP model that names colours: a folder or a hub id.  [default: openai/clip-vit-large-patch14]
            against: The reference model, computed with its weights; in a recipe also `self` and `source`.
            verifier: What scores the images: shapes, or judge:, clip:, vlm: or atoms:MODEL; each on its own.
            n: Noises to search per image.  [1 to 4,096; default: 8]
            search_verifier: What scores candidates: shapes, or judge:, clip:, vlm: or atoms:MODEL; several are ranked together.
            out: Where the measurement goes, and geneval's images.  [default: the artifact, geneval's images beside it; sanac-out/evaluate-NAME for other models]
            search: How images are found: one per noise, or by a search over --n noises of each prompt.  [one of single, best-of, halving, gated, two-stage, reflection, zero-order, paths, prm; default: single]
            max_forwards: Forward passes of the transformer to spend at most, both branches counted.  [at least 1]
            max_seconds: Begin no further candidates after so many seconds.  [above 0]
            until: Stop at the first candidate with this score.  [above 0; default: reflection: the verifier's verdict]
            previews: What reads previews: judge:MODEL, states:MODEL, or any verifier.  [default: the verifier]
            look: Steps after which previews are read.  [at least 1; default: by strategy]
            keep: Share that halving keeps at each look.  [above 0, at most 1; default: 0.5]
            clarity: Least clarity at which a gate judges a preview.  [0 to 1; default: 0.5]
            potential: Potential below which a clear preview is dropped.  [0 to 1; default: 0.5]
            draft_steps: Sampler steps of a draft.  [1 to 1,000; default: half]
            draft: A model that drafts.  [default: MODEL itself]
            neighbours: Neighbours of the best noise to try.  [at least 1; default: 4]
            cosine: Cosine of a neighbour to its noise.  [above -1, below 1; default: 0.95]
            back: Share of the steps that a new start goes back.  [above 0, at most 1; default: 0.5]
            seed: Seed of everything random.  [0 to 1,099,511,627,776; default: 0]
            device: cpu, cuda or cuda:N.  [default: the best that is available]
        """
    def bench(
        self,
        *models: _Model,
        backend: str | Sequence[str] = ...,
        batch: int | Sequence[int] | str = ...,
        rounds: int = ...,
        steps: int | None = ...,
        guidance: float = ...,
        size: str | None = ...,
        tile: int | None = ...,
        threads: int | None = ...,
        out: _File | None = ...,
        device: str | None = ...,
    ) -> Report:
        """Time every MODEL with every backend, in turns, each in a process of its own; ratios are to the first.

        Images are generated by the whole pipeline, and its parts timed as it calls them; a transformer without the rest of
        its pipeline is timed by the step. The figures go into measurements/bench.json of each MODEL that is an artifact. A
        warning says when they can't be trusted: other load, rounds far apart, or a drift.

        Settings:
            backend: Backends to time.  [one of torch, compile, onnx, onnx-trt, onnx-rtx, trt; default: torch, and onnx where graphs are]
            batch: Batch sizes.  [1 to 9,999; default: 1]
            rounds: Rounds; every model takes one turn in each.  [1 to 1,000; default: 5]
            steps: Sampler steps.  [1 to 1,000; default: the schedule's, else 20; SANA-Sprint 2, tokens 18]
            guidance: Guidance scale; of token generators Show-o's.  [0 to 100; default: 4.5; tokens 1.75]
            size: Width and height in pixels.  [default: the model's native size]
            tile: Decode in tiles of this side.  [at least 1]
            threads: Processor threads.  [at least 1; default: all]
            out: Write the measurement here, too.
            device: cpu, cuda or cuda:N.  [default: the best that is available]
        """
    def compare(
        self,
        *models: _Model,
        prompt: str | Sequence[str] = ...,
        prompts: _File | None = ...,
        num_prompts: int | None = ...,
        images: int | None = ...,
        prompts_split: Literal["test", "tune"] = ...,
        steps: int | None = ...,
        guidance: float = ...,
        batch: int = ...,
        out: _File | None = ...,
        force: bool = ...,
        seed: int = ...,
        device: str | None = ...,
    ) -> Report:
        """Generate the same prompts with every MODEL from the same noises, and show them side by side.

        Writes a sheet with a row per prompt and a column per model, each picture, and compare.json: sizes, time per
        picture, PSNR and SSIM to the first model's pictures, and what differs from it: blocks, precision, steps of the
        lineage. Models with the vocabulary of the shapes world are scored, too, with the paired difference to the first.

        Settings:
            prompt: A prompt to generate. May be repeated.
            prompts: A text file with a prompt per line.  [default: prompts of the shapes world, or bundled ones]
            num_prompts: How many of the file's or the default prompts.  [1 to 64; default: 4, or the whole file]
            images: Images to score with the shapes suite, 12 or more; 0: no score.  [at least 0; default: 64 where every model has its vocabulary, else 0]
            prompts_split: The suite's prompts, as in evaluate.  [one of test, tune; default: test]
            steps: Sampler steps.  [1 to 1,000; default: the schedule's, else 20, SANA-Sprint's 2]
            guidance: Guidance scale.  [0 to 100; default: 4.5]
            batch: Images per batch of the suite.  [at least 1; default: 16]
            out: Where sheet, pictures and figures go.  [default: WORKSPACE/compare-KEY]
            force: Compare again, and replace another comparison that is in DIR.
            seed: Seed of everything random.  [0 to 1,099,511,627,776; default: 0]
            device: cpu, cuda or cuda:N.  [default: the best that is available]
        """
    def gate(
        self,
        *,
        gates: _File,
        baseline: _Model | Sequence[_Model] = ...,
        junit: _File | None = ...,
    ) -> Report:
        """Hold the measurements of the artifact DIR to the limits in FILE. Exit 5 if one isn't kept.

        A metric that was not measured fails. On GitHub Actions, failures are annotated and the step's summary shows all;
        everything is written, whichever way the verdict goes.

        Settings:
            gates: TOML file with [[gate]] tables.  [required]
            baseline: What ratios are relative to: a model, or a folder with its measurements. May be repeated.
            junit: Write a JUnit file, too.
        """
    def generate(
        self,
        *prompts: str,
        n: int = ...,
        steps: int | None = ...,
        guidance: float = ...,
        order: Literal["confidence", "halton"] = ...,
        temperature: float = ...,
        size: str | None = ...,
        batch: int | None = ...,
        tile: int | None = ...,
        backend: Literal["torch", "onnx", "onnx-trt", "onnx-rtx", "trt"] = ...,
        verifier: str | Sequence[str] = ...,
        out: _File = ...,
        search: Literal["single", "best-of", "halving", "gated", "two-stage", "reflection", "zero-order", "paths", "prm"] = ...,
        max_forwards: int | None = ...,
        max_seconds: float | None = ...,
        until: float | None = ...,
        previews: str | None = ...,
        look: int | Sequence[int] | str = ...,
        keep: float = ...,
        clarity: float = ...,
        potential: float = ...,
        draft_steps: int | None = ...,
        draft: _Model | None = ...,
        neighbours: int = ...,
        cosine: float = ...,
        back: float = ...,
        seed: int = ...,
        device: str | None = ...,
    ) -> Report:
        """Generate each PROMPT with MODEL: a PNG each, with prompt, seed and settings inside, and a sheet of all.

        With --search, --n noises of every prompt are searched, and --verifier chooses the best image.
        The first image's noise is drawn from --seed (0 by default), the next one's from the seed after it. A file of the
        same prompt and seed by another model or with other settings is never replaced (exit 2): choose another --out.

        Settings:
            prompts: The prompts.  [required]
            n: Images, or noises to search, per prompt.  [1 to 4,096; default: 1; 8 with --search]
            steps: Sampler steps.  [1 to 1,000; default: the schedule's, else 20; SANA-Sprint 2, tokens 18]
            guidance: Guidance scale; of token generators Show-o's.  [0 to 100; default: 4.5; tokens 1.75]
            order: Which tokens become known first: the surest, or in a fixed order.  [one of confidence, halton; default: confidence]
            temperature: Noise in the order by confidence; 0: none.  [0 to 100; default: 1]
            size: Width and height in pixels.  [default: the model's native size]
            batch: Images per batch.  [at least 1; default: as many as fit, at most 16]
            tile: Decode in tiles of this side: less memory.  [at least 1]
            backend: What computes: the weights, or what was exported.  [one of torch, onnx, onnx-trt, onnx-rtx, trt; default: torch]
            verifier: What scores candidates: shapes, or judge:, clip:, vlm: or atoms:MODEL; several are ranked together.
            out: Where the images go.  [default: pictures]
            search: How images are found: one per noise, or by a search over --n noises of each prompt.  [one of single, best-of, halving, gated, two-stage, reflection, zero-order, paths, prm; default: single]
            max_forwards: Forward passes of the transformer to spend at most, both branches counted.  [at least 1]
            max_seconds: Begin no further candidates after so many seconds.  [above 0]
            until: Stop at the first candidate with this score.  [above 0; default: reflection: the verifier's verdict]
            previews: What reads previews: judge:MODEL, states:MODEL, or any verifier.  [default: the verifier]
            look: Steps after which previews are read.  [at least 1; default: by strategy]
            keep: Share that halving keeps at each look.  [above 0, at most 1; default: 0.5]
            clarity: Least clarity at which a gate judges a preview.  [0 to 1; default: 0.5]
            potential: Potential below which a clear preview is dropped.  [0 to 1; default: 0.5]
            draft_steps: Sampler steps of a draft.  [1 to 1,000; default: half]
            draft: A model that drafts.  [default: MODEL itself]
            neighbours: Neighbours of the best noise to try.  [at least 1; default: 4]
            cosine: Cosine of a neighbour to its noise.  [above -1, below 1; default: 0.95]
            back: Share of the steps that a new start goes back.  [above 0, at most 1; default: 0.5]
            seed: Seed of everything random.  [0 to 1,099,511,627,776; default: 0]
            device: cpu, cuda or cuda:N.  [default: the best that is available]
        """
