"""A faster gradient of convolutions over small images, on a CPU in float32."""

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode


class FasterGradients(TorchFunctionMode):
    """Inside `with FasterGradients():` nn.Conv2d has the gradient of `kernel_gradient` where that
    is faster than PyTorch's, which is oneDNN's and goes over the whole kernel for each image.

    It is where an image has fewer positions than the kernel has outputs: in ResNet18 at 64x64
    from the second stage on. tests/benchmark.py has the row "ResNet18 at 64, step".
    """

    def __torch_function__(self, function, types, arguments=(), options=None):
        if function is F.conv2d and not options and gains(*arguments):
            images, kernels, _, stride, padding = arguments[:5]
            return Convolution.apply(images, kernels, stride, padding)
        return function(*arguments, **(options or {}))


def gains(images, kernels, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Whether this call of F.conv2d is nn.Conv2d's, which has pairs of numbers, and gains."""
    if not isinstance(stride, tuple) or not isinstance(padding, tuple):
        return False
    if not images.is_cpu or torch.is_autocast_enabled("cpu"):
        return False
    positions = images[0, 0, ::stride[0], ::stride[1]].numel()
    return positions < len(kernels) and (bias, dilation, groups) == (None, (1, 1), 1)


class Convolution(torch.autograd.Function):
    """Images [B, C, H, W], kernels [O, C, h, w] -> [B, O, H', W']; stride and padding: pairs."""

    @staticmethod
    def forward(context, images, kernels, stride, padding):
        context.save_for_backward(images, kernels)
        context.how = stride, padding
        return F.conv2d(images, kernels, None, stride, padding)

    @staticmethod
    @once_differentiable
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
