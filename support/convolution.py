"""A faster gradient of convolutions over small images, on a CPU without bfloat16."""

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode


class FasterGradients(TorchFunctionMode):
    """Inside `with FasterGradients():` an nn.Conv2d has the gradient of `kernel_gradient`, where
    that is faster than PyTorch's. The convolution itself stays PyTorch's.

    PyTorch adds to the gradient of the whole kernel image by image. With 512 x 512 x 3 x 3 numbers
    in it and 2x2 positions in an image, most of the time goes into moving that gradient through
    memory. tests/benchmark.py measures both ("oneDNN" is PyTorch's).
    """

    def __torch_function__(self, function, types, arguments=(), options=None):
        if function is F.conv2d and len(arguments) == 7 and gains(*arguments):
            images, kernels, _, stride, padding, _, _ = arguments
            return Convolution.apply(images, kernels, stride, padding)
        return function(*arguments, **(options or {}))


def gains(images, kernels, bias, stride, padding, dilation, groups):
    """Whether there are fewer positions in an image than outputs of the kernel.

    Only for a call as nn.Conv2d makes it, with pairs of numbers; others stay PyTorch's.
    """
    if not isinstance(stride, tuple) or not isinstance(padding, tuple):
        return False
    if images.dim() != 4 or not images.is_cpu or torch.is_autocast_enabled("cpu"):
        return False
    positions = images.shape[2] * images.shape[3] / (stride[0] * stride[1])
    return positions < len(kernels) and bias is None and dilation == (1, 1) and groups == 1


class Convolution(torch.autograd.Function):
    """Images [B, C, H, W], kernels [O, C, h, w] -> [B, O, H', W']; stride and padding: pairs."""

    @staticmethod
    def forward(context, images, kernels, stride, padding):
        context.save_for_backward(images, kernels)
        context.how = stride, padding
        return F.conv2d(images, kernels, None, stride, padding)

    @staticmethod
    @once_differentiable  # nothing in here needs a gradient of its own
    def backward(context, gradient):
        (images, kernels), of_images, of_kernels = context.saved_tensors, None, None
        if context.needs_input_grad[0]:
            of_images = torch.nn.grad.conv2d_input(images.shape, kernels, gradient, *context.how)
        if context.needs_input_grad[1]:
            of_kernels = kernel_gradient(images, kernels, gradient, *context.how)
        return of_images, of_kernels, None, None


def kernel_gradient(images, kernels, gradient, stride, padding):
    """[O, C, h, w]: for each place in the kernel one product of matrices, over all positions of
    all images.
    """
    rows, columns = gradient.shape[2:]
    padded = F.pad(images, (padding[1], padding[1], padding[0], padding[0]))
    gradient = gradient.permute(1, 0, 2, 3).flatten(1)  # [O, positions]
    result = torch.empty_like(kernels)
    for i in range(kernels.shape[2]):
        for j in range(kernels.shape[3]):
            seen = padded[:, :, i:, j:][:, :, ::stride[0], ::stride[1]][:, :, :rows, :columns]
            seen = seen.permute(0, 2, 3, 1).flatten(0, 2)  # [positions, C]
            torch.mm(gradient, seen, out=result[:, :, i, j])
    return result
