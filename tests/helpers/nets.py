"""The small models that tests train."""


def small_net(keras, *, batch_norm=False, seed=0, optimizer="adam", **compile_arguments):
    """A compiled convolutional net for the digits with some 3,000 weights; one for one seed."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    steps = [
        layers.Input((8, 8, 1), name="image"),
        layers.Conv2D(8, 3, use_bias=not batch_norm, name="conv1"),
        *([layers.BatchNormalization(name="norm1")] if batch_norm else []),
        layers.ReLU(name="relu1"),
        layers.MaxPooling2D(name="pool1"),
        layers.Flatten(name="flatten"),
        layers.Dense(32, activation="relu", name="dense1"),
        layers.Dense(10, activation="softmax", name="probabilities"),
    ]
    model = keras.Sequential(steps)
    arguments = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
    model.compile(optimizer=optimizer, **{**arguments, **compile_arguments})
    return model


def trained_net(keras, digits, *callbacks, epochs, optimizer="adam", batch_norm=False):
    """`small_net` after some epochs on the digits, without XLA, which would take seconds more."""
    model = small_net(keras, batch_norm=batch_norm, optimizer=optimizer, jit_compile=False)
    x, y, _, _ = digits
    model.fit(x, y, epochs=epochs, batch_size=32, verbose=0, callbacks=list(callbacks))
    return model


def compile_net(keras, model):
    """Without XLA, which would take seconds for every phase."""
    model.compile(
        keras.optimizers.Adam(0.01),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,
    )
    return model


def slots(model):
    """The values of all that the optimizer keeps."""
    variables = model.optimizer.variables
    return [v.numpy() for v in (variables() if callable(variables) else variables)]
