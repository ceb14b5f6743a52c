"""What package.xml, setup.py and the version module say of the package is the same."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from maac_ros.version import __version__

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def manifest():
    return ElementTree.parse(ROOT / "package.xml").getroot()


def test_package_xml_has_the_version_of_the_code(manifest):
    assert manifest.findtext("version") == __version__


def test_package_xml_is_an_ament_python_package_of_this_name(manifest):
    assert manifest.get("format") == "3"
    assert manifest.findtext("name") == "maac_ros"
    assert manifest.findtext("export/build_type") == "ament_python"
    assert (ROOT / "resource" / "maac_ros").read_bytes() == b""


def test_every_ros_package_the_nodes_import_is_a_dependency(manifest):
    declared = {element.text for element in manifest.findall("exec_depend")}
    sources = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "maac_ros").rglob("*.py"))
    words = {line.split()[1].partition(".")[0] for line in sources.splitlines() if _imports(line)}
    used = {w for w in words if w.endswith(("_msgs", "_srvs", "_interfaces")) or w == "rclpy"}
    assert "sensor_msgs" in used
    assert used <= declared


def _imports(line: str) -> bool:
    return line.strip().startswith(("from ", "import ")) and len(line.split()) > 1
