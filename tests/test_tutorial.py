"""The hand-out's tutorial, snippet by snippet, in order, in one Python prompt beside these files.

They stand as the hand-out has them, less its empty lines, with `next(dataiter)` for
`dataiter.next()`, which PyTorch no longer has, and without the two brackets too many in the
convolutional layers. For the time it takes, the loaders get 2,000 and 500 images.
"""

import os
import re

import torch
from torch.utils.data import DataLoader
from torchvision import transforms

DATA = """
import torch, torchvision
from torch import optim
import torch.nn as nn
from dataset import load_cifar10, imshow
trainset, testset = load_cifar10()
trainset.classes
len(trainset)              # 50000 images
image, label = trainset[0] # get first image and its class id
image.shape                # 3 x 32 x 32
imshow(image)              # `imshow` is in cifar10.py
trainset.classes[label]    # 'frog'
"""
LOADERS = """
from torch.utils.data import DataLoader
trainloader = DataLoader(trainset, batch_size=4, shuffle=True)
testloader = DataLoader(testset, batch_size=4, shuffle=False)
for batch in trainloader:
    images, labels = batch
    print(images.shape) # [4, 3, 32, 32]
    print(labels.shape) # [4]
    break
"""
LAYERS = """
conv_layer1 = nn.Sequential(
    nn.Conv2d(in_channels=3, out_channels=6, kernel_size=(5,5)),
    nn.ReLU(),
)
conv_layer2 = nn.Sequential(
    nn.Conv2d(in_channels=6, out_channels=16, kernel_size=(5,5)),
    nn.ReLU(),
)
fc_layer1 = nn.Sequential(
    nn.Linear(in_features=16*5*5, out_features=120),
    nn.ReLU(),
)
fc_layer2 = nn.Sequential(
    nn.Linear(in_features=120, out_features=84),
    nn.ReLU(),
)
fc_layer3 = nn.Linear(in_features=84, out_features=10)
LeNet5 = nn.Sequential(
    conv_layer1,
    nn.MaxPool2d(kernel_size=(2,2)),
    conv_layer2,
    nn.MaxPool2d(kernel_size=(2,2)),
    nn.Flatten(), # flatten
    fc_layer1,
    fc_layer2,
    fc_layer3
)
"""
TRAINING = """
from model import LeNet5
model = LeNet5
loss_fn = nn.CrossEntropyLoss()
optimizer = optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
# training
num_epoch = 2
for epoch in range(num_epoch):
    running_loss = 0.0
    for i, batch in enumerate(trainloader, 0):
        # get the images; batch is a list of [images, labels]
        images, labels = batch
        optimizer.zero_grad() # zero the parameter gradients
        # get prediction
        outputs = model(images)
        # compute loss
        loss = loss_fn(outputs, labels)
        # reduce loss
        loss.backward()
        optimizer.step()
        # print statistics
        running_loss += loss.item()
        if i % 500 == 499:  # print every 500 mini-batches
            print('[%d, %5d] loss: %.3f' %
                  (epoch + 1, i + 1, running_loss / 500))
            running_loss = 0.0
#save our model to a file:
torch.save(LeNet5.state_dict(), 'model.pth')
print('Finished Training')
"""
TESTING = """
dataiter = iter(testloader)
images, labels = next(dataiter)
predictions = model(images).argmax(1)
# show some prediction result
classes = trainset.classes
print('GroundTruth: ', ' '.join('%5s' % classes[i] for i in labels))
print('Prediction: ', ' '.join('%5s' % classes[i] for i in predictions))
imshow(torchvision.utils.make_grid(images.cpu()))
@torch.no_grad()
def accuracy(model, data_loader):
    model.eval()
    correct, total = 0, 0
    for batch in data_loader:
        images, labels = batch
        outputs = model(images)
        _, predicted = torch.max(outputs.data, 1)
        total += labels.size(0)
        correct += (predicted == labels).sum().item()
    return correct / total
train_acc = accuracy(model, trainloader) # accuracy on train set
test_acc = accuracy(model, testloader)  # accuracy on test set
print('Accuracy on the train set: %f %%' % (100 * train_acc))
print('Accuracy on the test set: %f %%' % (100 * test_acc))
"""


def test_tutorial(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    torch.manual_seed(0)
    names = {}
    exec(DATA, names)
    assert names["image"].shape == (3, 32, 32) and len(names["trainset"]) == 50_000
    assert names["trainset"].classes[names["label"]] == "frog"
    assert os.path.exists("imshow.png")  # no display here
    for name, count in (("trainset", 2000), ("testset", 500)):
        names[name] = names[name].subset(slice(count))
    exec(LOADERS, names)
    assert "torch.Size([4, 3, 32, 32])\ntorch.Size([4])" in capsys.readouterr().out
    exec(LAYERS + "typed_in = LeNet5\n" + TRAINING, names)
    assert str(names["typed_in"]) == str(names["LeNet5"])  # model.py's is what was typed in
    *lines, last = capsys.readouterr().out.splitlines()
    first, second = (float(re.fullmatch(r"\[\d,   500\] loss: (.*)", line)[1]) for line in lines)
    assert second < first < 2.31 and last == "Finished Training"
    names["typed_in"].load_state_dict(torch.load("model.pth", weights_only=True))
    exec(TESTING, names)
    out = capsys.readouterr().out
    assert "GroundTruth:    cat  ship  ship" in out  # the first test images, as in the hand-out
    assert f"Accuracy on the test set: {100 * names['test_acc']:f} %" in out


def test_what_course_solutions_use(mnist, cifar10):
    images, labels = next(iter(DataLoader(cifar10[0], batch_size=4)))
    grey = transforms.Resize((28, 28))(transforms.Grayscale()(images))
    assert grey.shape == (4, 1, 28, 28) and labels.tolist() == list(cifar10[0].targets[:4])
    assert mnist[0].data.shape == (60_000, 28, 28) and mnist[0].targets[:3].tolist() == [5, 0, 4]
