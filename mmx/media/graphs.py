"""MediaPipe's graphs (faces, hands, bodies), run by its C++ framework without the Python `solutions` around them.

Those need a protobuf older than 5; the graphs and their models, which the package carries, do not. Nothing is
downloaded.

Letters: H height, W width, P points.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmx.extras import import_extra

STEP_US = 40_000
"""Between pictures, on the graph's clock: it must rise, and says nothing else."""


class Graph:
    """One graph over the pictures of one video, in their order: what it found in the last one helps in the next.

    Args:
        name: path of the graph in `mediapipe/modules`, without its ending.
        outputs: names of the streams of landmark lists that are read.
        single: whether a stream has one such list, as those of one person have, and not as many as were found.
        side: flags (bool) and numbers (int) that the graph takes once.

    Raises:
        InputError: the package is not installed.
    """

    def __init__(self, name: str, outputs: Sequence[str], side: Mapping[str, bool | int], single: bool = False) -> None:
        package = import_extra("mediapipe", "landmarks")
        framework = import_extra("mediapipe.python._framework_bindings", "landmarks")
        self._packets = import_extra("mediapipe.python.packet_creator", "landmarks")
        self._read = import_extra("mediapipe.python._framework_bindings._packet_getter", "landmarks")
        formats = import_extra("mediapipe.framework.formats.landmark_pb2", "landmarks")
        self._single = single
        self._list = formats.NormalizedLandmarkList
        self._srgb = framework.image_frame.ImageFormat.SRGB
        root = Path(package.__file__).parent
        framework.resource_util.set_resource_dir(str(root.parent))
        self._graph = framework.calculator_graph.CalculatorGraph(
            binary_graph_path=str(root / "modules" / f"{name}.binarypb")
        )
        self._found: dict[str, Any] = {}
        self._at = 0
        for output in outputs:
            self._graph.observe_output_stream(output, self._found.__setitem__, True)
        make = {bool: self._packets.create_bool, int: self._packets.create_int}
        self._graph.start_run({key: make[type(value)](value) for key, value in side.items()})

    def __call__(self, picture_HW3: np.ndarray) -> dict[str, list[np.ndarray]]:
        """Of a picture of bytes, the lists of points `(P, 3)` float32 of each output; none where nothing was found.

        x and y are shares of the picture's width and height, z is in widths.
        """
        image = self._packets.create_image_frame(
            image_format=self._srgb, data=np.ascontiguousarray(picture_HW3, np.uint8)
        )
        self._graph.add_packet_to_input_stream(stream="image", packet=image.at(self._at))
        self._graph.wait_until_idle()
        self._at += STEP_US
        return {name: self._points(packet) for name, packet in self._found.items()}

    def _points(self, packet: Any) -> list[np.ndarray]:
        if packet.is_empty():
            return []
        read = self._read
        data = [read._get_serialized_proto(packet)] if self._single else read._get_serialized_proto_list(packet)
        lists = map(self._list.FromString, data)
        return [np.array([(p.x, p.y, p.z) for p in found.landmark], np.float32) for found in lists]

    def close(self) -> None:
        """Stop the graph."""
        self._graph.close()
